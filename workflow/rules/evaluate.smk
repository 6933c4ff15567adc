rule evaluate:
    input:
        data=planned("data"),
        images=planned("images"),
        labels=planned("labels"),
        teachers=planned("teachers"),
        before=before("evaluate"),
    output:
        artifact="results/store/evaluate/{name}-{key}.csv",
        receipt="results/store/evaluate/{name}-{key}.json",
    log:
        "results/logs/evaluate/{name}-{key}.log",
    benchmark:
        "results/benchmarks/evaluate/{name}-{key}.tsv"
    conda:
        "../envs/gvbsm.yaml"
    threads: planned_threads
    resources:
        gpu=1,
    shell:
        "gvbsm lease -n {resources.gpu} -- "
        "gvbsm evaluate --spec results/.plan/{wildcards.key}.json --out {output.artifact} "
        "--processes {resources.gpu} 2> {log}"
