rule pictures:
    input:
        unpack(drawn_pictures),
    output:
        "results/{dataset}/{run}/pictures.txt",
    log:
        "results/logs/pictures/{dataset}-{run}.log",
    benchmark:
        "results/benchmarks/pictures/{dataset}-{run}.tsv"
    localrule: True
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "printf '%s\\n' {input.pictures:q} > {output:q} 2> {log:q}"
