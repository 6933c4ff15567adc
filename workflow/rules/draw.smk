rule draw:
    input:
        unpack(drawn_inputs),
    output:
        png=report(
            "results/{dataset}/{run}/pictures/{picture}.png",
            category="{dataset}",
            subcategory="{run}",
            labels={"what": "Picture: {picture}"},
            caption="../report/picture.rst",
        ),
        svg="results/{dataset}/{run}/pictures/{picture}.svg",
        pdf="results/{dataset}/{run}/pictures/{picture}.pdf",
        source="results/{dataset}/{run}/pictures/{picture}.json",
    log:
        "results/logs/draw/{dataset}-{run}-{picture}.log",
    benchmark:
        "results/benchmarks/draw/{dataset}-{run}-{picture}.tsv"
    localrule: True
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "gvbsm draw --spec {input.plan:q} --out {output.source:q} 2> {log:q}"
