rule squeeze:
    input:
        data=planned("data"),
        before=before("squeeze"),
    output:
        artifact="results/store/squeeze/{name}-{key}.safetensors",
        receipt="results/store/squeeze/{name}-{key}.json",
    log:
        "results/logs/squeeze/{name}-{key}.log",
    benchmark:
        "results/benchmarks/squeeze/{name}-{key}.tsv"
    priority: 4  # with recover the longest way to a result; and one pass of statistics serves all teachers that are there
    conda:
        "../envs/gvbsm.yaml"
    threads: planned_threads
    resources:
        gpu=1,
    shell:
        "gvbsm lease -n {resources.gpu} -- "
        "gvbsm squeeze --spec results/.plan/{wildcards.key}.json --out {output.artifact} "
        "--processes {resources.gpu} 2> {log}"
