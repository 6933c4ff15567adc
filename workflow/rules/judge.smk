rule judge:
    input:
        network=planned("network"),
        images=planned("images"),
    output:
        artifact="results/store/judge/{name}-{key}.csv",
        receipt="results/store/judge/{name}-{key}.json",
    log:
        "results/logs/judge/{name}-{key}.log",
    benchmark:
        "results/benchmarks/judge/{name}-{key}.tsv"
    conda:
        "../envs/gvbsm.yaml"
    threads: planned_threads
    resources:
        gpu=1,
    shell:
        "gvbsm lease -n {resources.gpu} -- "
        "gvbsm judge --spec results/.plan/{wildcards.key}.json --out {output.artifact} 2> {log}"
