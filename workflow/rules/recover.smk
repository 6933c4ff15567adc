rule recover:
    input:
        teachers=planned("teachers"),
        statistics=planned("statistics"),
        start=planned("start"),
        before=before("recover"),
    output:
        artifact="results/store/recover/{name}-{key}.safetensors",
        receipt="results/store/recover/{name}-{key}.json",
    log:
        "results/logs/recover/{name}-{key}.log",
    benchmark:
        "results/benchmarks/recover/{name}-{key}.tsv"
    priority: 2  # before labels and students of random real images, for which nothing waits
    conda:
        "../envs/gvbsm.yaml"
    threads: planned_threads
    resources:
        gpu=1,
    shell:
        "gvbsm lease -n {resources.gpu} -- "
        "gvbsm recover --spec results/.plan/{wildcards.key}.json --out {output.artifact} 2> {log}"
