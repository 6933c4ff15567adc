localrules:
    draw,
    pictures,


def drawn_inputs(wildcards):
    """Plan a picture."""
    named = wildcards.dataset, *checked(parse_run, wildcards.run), wildcards.picture
    folder = Path("results") / wildcards.dataset / wildcards.run / "pictures"
    return target_inputs(checked(plan_picture, *named, settings.pictures), folder / f"{wildcards.picture}.json")


def drawn_pictures(wildcards):
    """All pictures that a run has."""
    _, recipe = checked(parse_run, wildcards.run)
    folder = f"results/{wildcards.dataset}/{wildcards.run}/pictures"
    return [f"{folder}/{picture}.png" for picture in checked(pictures_of, wildcards.dataset, recipe)]


rule draw:
    input:
        unpack(drawn_inputs),
    output:
        png="results/{dataset}/{run}/pictures/{picture}.png",
        svg="results/{dataset}/{run}/pictures/{picture}.svg",
        source="results/{dataset}/{run}/pictures/{picture}.json",
    log:
        "results/logs/draw/{dataset}-{run}-{picture}.log",
    benchmark:
        "results/benchmarks/draw/{dataset}-{run}-{picture}.tsv"
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "gvbsm draw --spec {input.plan:q} --out {output.source:q} 2> >(tee {log:q} >&2)"


rule pictures:
    input:
        drawn_pictures,
    output:
        "results/{dataset}/{run}/pictures.txt",
    log:
        "results/logs/pictures/{dataset}-{run}.log",
    benchmark:
        "results/benchmarks/pictures/{dataset}-{run}.tsv"
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "printf '%s\\n' {input:q} > {output:q} 2> {log:q}"
