rule compare:
    input:
        unpack(compared_runs),
    output:
        table=report(
            "results/{dataset}/compare.csv",
            category="{dataset}",
            subcategory="comparison",
            labels={"what": "Runs side by side"},
            caption="../report/compare.rst",
        ),
        png=report(
            "results/{dataset}/compare.png",
            category="{dataset}",
            subcategory="comparison",
            labels={"what": "Runs side by side, drawn"},
            caption="../report/compare_picture.rst",
        ),
        svg="results/{dataset}/compare.svg",
        pdf="results/{dataset}/compare.pdf",
    log:
        "results/logs/compare/{dataset}.log",
    benchmark:
        "results/benchmarks/compare/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "gvbsm compare {input.runs:q} --csv {output.table:q}"
        " --picture {output.png:q} --picture {output.svg:q} --picture {output.pdf:q} 2> {log:q}"
