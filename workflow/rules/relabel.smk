rule relabel:
    input:
        teachers=planned("teachers"),
        data=planned("data"),
        images=planned("images"),
    output:
        artifact="results/store/relabel/{name}-{key}.safetensors",
        receipt="results/store/relabel/{name}-{key}.json",
    log:
        "results/logs/relabel/{name}-{key}.log",
    benchmark:
        "results/benchmarks/relabel/{name}-{key}.tsv"
    priority: 1  # students wait for it
    conda:
        "../envs/gvbsm.yaml"
    threads: planned_threads
    resources:
        gpu=1,
    shell:
        "gvbsm lease -n {resources.gpu} -- "
        "gvbsm relabel --spec results/.plan/{wildcards.key}.json --out {output.artifact} 2> {log}"
