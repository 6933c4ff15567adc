rule publish:
    input:
        unpack(published_inputs),
    output:
        accuracies="results/{dataset}/{run}/acc.json",
        settings="results/{dataset}/{run}/settings.yaml",
        table=report(
            "results/{dataset}/{run}/table.csv",
            category="{dataset}",
            subcategory="{run}",
            labels={"what": "Accuracies"},
            caption="../report/table.rst",
        ),
        classes=report(
            "results/{dataset}/{run}/classes.csv",
            category="{dataset}",
            subcategory="{run}",
            labels={"what": "Accuracies by class"},
            caption="../report/classes.rst",
        ),
        picture=report(
            "results/{dataset}/{run}/images.png",
            category="{dataset}",
            subcategory="{run}",
            labels={"what": "The distilled images"},
            caption="../report/images.rst",
        ),
        scalable="results/{dataset}/{run}/images.svg",
        printed="results/{dataset}/{run}/images.pdf",
    log:
        "results/logs/publish/{dataset}-{run}.log",
    benchmark:
        "results/benchmarks/publish/{dataset}-{run}.tsv"
    localrule: True
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "gvbsm publish --spec {input.plan:q} --out {output.accuracies:q} > {log:q} 2>&1"
