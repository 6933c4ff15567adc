rule check:
    input:
        data=planned("data"),
    output:
        artifact="results/store/check/{name}-{key}.csv",
        receipt="results/store/check/{name}-{key}.json",
    log:
        "results/logs/check/{name}-{key}.log",
    benchmark:
        "results/benchmarks/check/{name}-{key}.tsv"
    priority: 5  # what it finds is worth knowing before anything else begins
    localrule: True
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "gvbsm check --spec results/.plan/{wildcards.key}.json --out {output.artifact} 2> {log}"
