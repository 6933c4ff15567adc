localrules:
    compare,


rule compare:
    input:
        compared_runs,
    output:
        "results/{dataset}/compare.csv",
    log:
        "results/logs/compare/{dataset}.log",
    benchmark:
        "results/benchmarks/compare/{dataset}.tsv"
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "gvbsm compare {input:q} --csv {output:q} 2> >(tee {log:q} >&2)"
