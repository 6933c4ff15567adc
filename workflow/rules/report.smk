rule report:
    input:
        accuracies="results/{dataset}/{run}/acc.json",
        classes="results/{dataset}/{run}/classes.csv",
        images="results/{dataset}/{run}/images.png",
        pictures=pictures_there,
    output:
        report(
            "results/{dataset}/{run}/report.html",
            category="{dataset}",
            subcategory="{run}",
            labels={"what": "The whole run on a page"},
            caption="../report/report.rst",
        ),
    log:
        "results/logs/report/{dataset}-{run}.log",
    benchmark:
        "results/benchmarks/report/{dataset}-{run}.tsv"
    localrule: True
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "gvbsm report {input.accuracies:q} --out {output:q} > {log:q} 2>&1"
