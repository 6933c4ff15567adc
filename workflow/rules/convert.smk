rule convert:
    input:
        images=planned("images"),
    output:
        artifact="results/store/convert/{name}-{key}.safetensors",
        receipt="results/store/convert/{name}-{key}.json",
    log:
        "results/logs/convert/{name}-{key}.log",
    benchmark:
        "results/benchmarks/convert/{name}-{key}.tsv"
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "gvbsm convert --spec results/.plan/{wildcards.key}.json --out {output.artifact} 2> {log}"
