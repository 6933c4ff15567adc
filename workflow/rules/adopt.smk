rule adopt:
    input:
        data=planned("data"),
    output:
        artifact="results/store/adopt/{name}-{key}.safetensors",
        receipt="results/store/adopt/{name}-{key}.json",
    log:
        "results/logs/adopt/{name}-{key}.log",
    benchmark:
        "results/benchmarks/adopt/{name}-{key}.tsv"
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "gvbsm adopt --spec results/.plan/{wildcards.key}.json --out {output.artifact} 2> {log}"
