# What is published outside the store reads: the inputs of the rules that users ask for.
from gvbsm.adopted import check_adopted
from gvbsm.configs import comparison, parse_run
from gvbsm.plan import plan
from gvbsm.plan_pictures import pictures_of, pictures_that_can_be_drawn, plan_picture
from gvbsm.planfiles import target_file, write_list, write_plans
from gvbsm.published import further_pictures
from gvbsm.receipts import receipt_path


def target_inputs(artifacts, published):
    """Inputs of publish or draw: its own plan file is compared by time, the store's artifacts are not."""
    checked(check_adopted, artifacts, Path(settings.data_root))
    target = checked(write_plans, artifacts, published)
    # Here alone receipts are asked for: of every input twice, they would double the time that planning takes.
    receipts = [ancient(str(receipt_path(STORE / path))) for path in input_paths(target.spec)]
    return {"plan": str(target_file(target.key)), "artifacts": stored(target.spec), "receipts": receipts}


def published_inputs(wildcards):
    """Plan the run."""
    planned = checked(plan, wildcards.dataset, *checked(parse_run, wildcards.run))
    return target_inputs(planned, Path("results") / wildcards.dataset / wildcards.run / "acc.json")


def drawn_inputs(wildcards):
    """Plan a picture."""
    named = wildcards.dataset, *checked(parse_run, wildcards.run), wildcards.picture
    folder = Path("results") / wildcards.dataset / wildcards.run / "pictures"
    return target_inputs(checked(plan_picture, *named, settings.pictures), folder / f"{wildcards.picture}.json")


def drawn_pictures(wildcards):
    """All pictures that a run has, and the list of them."""
    _, recipe = checked(parse_run, wildcards.run)
    folder = Path("results") / wildcards.dataset / wildcards.run
    drawn = [f"{folder}/pictures/{picture}.png" for picture in checked(pictures_of, wildcards.dataset, recipe)]
    return {"pictures": drawn, "which": str(checked(write_list, folder / "pictures.txt", drawn))}


def compared_runs(wildcards):
    """The runs of a comparison, and the list of them."""
    runs = checked(comparison, settings, wildcards.dataset)
    table = Path("results") / wildcards.dataset / "compare.csv"
    return {"runs": runs, "which": str(checked(write_list, table, runs))}


def pictures_there(wildcards):
    """Further pictures of a run that its page takes in: those that are there, drawn anew if the run is another now. Asking
    for the page makes none that nobody asked for, and needs none that the run has no longer."""
    there = further_pictures(Path("results") / wildcards.dataset / wildcards.run)
    _, recipe = checked(parse_run, wildcards.run)
    drawn = checked(pictures_that_can_be_drawn, wildcards.dataset, recipe, settings.pictures)
    return [str(file) for name, files in there.items() if name in drawn for file in files]
