rule compare:
    input:
        runs=compared_runs,
    output:
        table="results/{dataset}/compare.csv",
        png="results/{dataset}/compare.png",
        svg="results/{dataset}/compare.svg",
    log:
        "results/logs/compare/{dataset}.log",
    benchmark:
        "results/benchmarks/compare/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "gvbsm compare {input.runs:q} --csv {output.table:q} --picture {output.png:q} --picture {output.svg:q} "
        "2> >(tee {log:q} >&2)"
