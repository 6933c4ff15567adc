localrules:
    report,


def pictures_there(wildcards):
    """Further pictures of a run that its page takes in: those that are there, so that asking for the page makes none."""
    there = further_pictures(Path("results") / wildcards.dataset / wildcards.run)
    return [str(file) for files in there.values() for file in files]


rule report:
    input:
        accuracies="results/{dataset}/{run}/acc.json",
        classes="results/{dataset}/{run}/classes.csv",
        images="results/{dataset}/{run}/images.png",
        pictures=pictures_there,
    output:
        report(
            "results/{dataset}/{run}/report.html",
            category="{dataset}",
            subcategory="{run}",
            labels={"what": "The whole run on a page"},
            caption="../report/report.rst",
        ),
    log:
        "results/logs/report/{dataset}-{run}.log",
    benchmark:
        "results/benchmarks/report/{dataset}-{run}.tsv"
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "gvbsm report {input.accuracies:q} --out {output:q} 2> >(tee {log:q} >&2)"
