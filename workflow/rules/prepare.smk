rule prepare:
    output:
        artifact="results/store/prepare/{name}-{key}.safetensors",
        receipt="results/store/prepare/{name}-{key}.json",
    log:
        "results/logs/prepare/{name}-{key}.log",
    benchmark:
        "results/benchmarks/prepare/{name}-{key}.tsv"
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "gvbsm prepare --spec results/.plan/{wildcards.key}.json --out {output.artifact} 2> {log}"
