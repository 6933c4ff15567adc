# Input functions of the rules that write outside the store, whose files users ask for.
from gvbsm.config.project import comparison
from gvbsm.config.targets import parse_target
from gvbsm.pipeline.adopt import check_adopted
from gvbsm.pipeline.check import CheckSpec
from gvbsm.pipeline.graph import plan_run
from gvbsm.pipeline.pictures import pictures_of, pictures_that_can_be_drawn, plan_picture
from gvbsm.pipeline.registry import write_plans
from gvbsm.store.plans import target_file, write_list
from gvbsm.store.receipts import receipt_path
from gvbsm.store.run import ACCURACIES, PICTURES_LIST, further_pictures


def run_of(wildcards):
    """The run that a rule is for."""
    return checked(parse_target, f"results/{wildcards.dataset}/{wildcards.run}")


def accuracies_of_folder(wildcards):
    """Refuse the folder of a run as a target, and name the file to ask for: the folder only holds outputs of other rules."""
    run = run_of(wildcards)
    sys.stderr.write(f"gvbsm: {run.folder}: expected a file of it; run snakemake --cores all {run.accuracies}\n")
    raise SystemExit(1)


def target_inputs(artifacts, published):
    """Inputs of publish or draw, by their names in its spec. Only its own plan file is compared by time."""
    check_until(artifacts)
    checked(check_folders, [published.parent], not workflow.dryrun)
    checked(check_adopted, artifacts, Path(job_environment(settings)["GVBSM_DATA_ROOT"]))
    target = checked(write_plans, artifacts, published)
    SPECS.update((artifact.key, artifact.spec) for artifact in artifacts)
    checks = [artifact.path for artifact in artifacts if isinstance(artifact.spec, CheckSpec)]
    teachers = {artifact.path: artifact.spec for artifact in artifacts if artifact.stage == "squeeze"}
    for artifact in artifacts:
        RUNS.setdefault(artifact.key, {})[target.key] = (checks, teachers)  # Snakemake may ask again
    inputs = {name: stored(paths) for name, paths in target.spec.inputs if paths}
    # Only these rules ask for receipts, and of what they do not read for those that are lost: with the receipts of every rule's
    # inputs, planning would take twice as long.
    read = dict.fromkeys(target.spec.input_paths())
    others = [artifact.path for artifact in artifacts if artifact.path not in read and (STORE / artifact.path).exists()]
    lost = [path for path in others if not receipt_path(STORE / path).exists()]
    receipts = [ancient(str(receipt_path(STORE / path))) for path in [*read, *lost]]
    return {"plan": str(target_file(target.key)), **inputs, "receipts": receipts}


def published_inputs(wildcards):
    """Plan the run."""
    run = run_of(wildcards)
    return target_inputs(checked(plan_run, run), run.accuracies)


def drawn_inputs(wildcards):
    """Plan a picture."""
    run = run_of(wildcards)
    artifacts = checked(plan_picture, run.dataset, run.ipc, run.recipe, wildcards.picture, settings.pictures)
    return target_inputs(artifacts, run.folder / "pictures" / f"{wildcards.picture}.json")


def drawn_pictures(wildcards):
    """All pictures that a run has, and the list of them."""
    run = run_of(wildcards)
    drawn = [f"{run.folder}/pictures/{picture}.png" for picture in checked(pictures_of, run.dataset, run.recipe)]
    return {"pictures": drawn, "which": str(checked(write_list, run.folder / PICTURES_LIST, drawn))}


def compared_runs(wildcards):
    """The runs of a comparison, and the list of them."""
    runs = [str(run.accuracies) for run in checked(comparison, settings, wildcards.dataset)]
    table = Path("results") / wildcards.dataset / "compare.csv"
    return {"runs": runs, "which": str(checked(write_list, table, runs))}


def pictures_there(wildcards):
    """The pictures that a report shows: those that exist and still belong to the run, drawn again if it has changed."""
    run = run_of(wildcards)
    existing = further_pictures(run.folder)
    drawable = checked(pictures_that_can_be_drawn, run.dataset, run.recipe, settings.pictures)
    return [str(file) for name, files in existing.items() if name in drawable for file in files]
