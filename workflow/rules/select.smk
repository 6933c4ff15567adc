rule select:
    input:
        data=planned("data"),
        teachers=planned("teachers"),
    output:
        artifact="results/store/select/{name}-{key}.safetensors",
        receipt="results/store/select/{name}-{key}.json",
    log:
        "results/logs/select/{name}-{key}.log",
    benchmark:
        "results/benchmarks/select/{name}-{key}.tsv"
    priority: 3  # recover waits for it
    conda:
        "../envs/gvbsm.yaml"
    threads: planned_threads
    resources:
        gpu=1,
    shell:
        "gvbsm lease -n {resources.gpu} -- "
        "gvbsm select --spec results/.plan/{wildcards.key}.json --out {output.artifact} 2> {log}"
