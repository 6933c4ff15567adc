rule statistics:
    input:
        data=planned("data"),
        teacher=planned("teacher"),
    output:
        artifact="results/store/statistics/{name}-{key}.safetensors",
        receipt="results/store/statistics/{name}-{key}.json",
    log:
        "results/logs/statistics/{name}-{key}.log",
    benchmark:
        "results/benchmarks/statistics/{name}-{key}.tsv"
    priority: 3  # recover waits for it
    conda:
        "../envs/gvbsm.yaml"
    threads: planned_threads
    resources:
        gpu=1,
    shell:
        "gvbsm lease -n {resources.gpu} -- "
        "gvbsm statistics --spec results/.plan/{wildcards.key}.json --out {output.artifact} --ahead "
        "2> {log}"
