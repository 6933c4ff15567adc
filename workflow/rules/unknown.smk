rule unknown:
    input:
        refused_target,
    output:
        "{target}",
    log:
        "results/logs/unknown/{target}.log",
    benchmark:
        "results/benchmarks/unknown/{target}.tsv"
    wildcard_constraints:
        target=rf"(?!({'|'.join(KNOWN)})$).+" if ALONE else r"(?!)",
    localrule: True
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "false 2> {log:q}"
