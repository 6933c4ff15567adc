rule publish:
    input:
        unpack(published_inputs),
    output:
        accuracies="results/{dataset}/{run}/acc.json",
        table="results/{dataset}/{run}/table.csv",
        classes="results/{dataset}/{run}/classes.csv",
        picture="results/{dataset}/{run}/images.png",
    log:
        "results/logs/publish/{dataset}-{run}.log",
    benchmark:
        "results/benchmarks/publish/{dataset}-{run}.tsv"
    localrule: True
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "gvbsm publish --spec {input.plan:q} --out {output.accuracies:q} 2> >(tee {log:q} >&2)"
