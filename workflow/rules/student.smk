rule student:
    input:
        data=planned("data"),
        images=planned("images"),
        labels=planned("labels"),
        teachers=planned("teachers"),
    output:
        artifact="results/store/student/{name}-{key}.safetensors",
        receipt="results/store/student/{name}-{key}.json",
    log:
        "results/logs/student/{name}-{key}.log",
    benchmark:
        "results/benchmarks/student/{name}-{key}.tsv"
    conda:
        "../envs/gvbsm.yaml"
    threads: planned_threads
    resources:
        gpu=1,
    shell:
        "gvbsm lease -n {resources.gpu} -- "
        "gvbsm student --spec results/.plan/{wildcards.key}.json --out {output.artifact} "
        "--processes {resources.gpu} 2> {log}"
