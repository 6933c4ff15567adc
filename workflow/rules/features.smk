rule features:
    input:
        data=planned("data"),
        network=planned("network"),
        images=planned("images"),
    output:
        artifact="results/store/features/{name}-{key}.safetensors",
        receipt="results/store/features/{name}-{key}.json",
    log:
        "results/logs/features/{name}-{key}.log",
    benchmark:
        "results/benchmarks/features/{name}-{key}.tsv"
    conda:
        "../envs/gvbsm.yaml"
    threads: planned_threads
    resources:
        gpu=1,
    shell:
        "gvbsm lease -n {resources.gpu} -- "
        "gvbsm features --spec results/.plan/{wildcards.key}.json --out {output.artifact} 2> {log}"
