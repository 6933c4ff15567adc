"""`gvbsm gc` lists what nothing needs, and deletes that and no more."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import filelock
import pytest
import yaml

from gvbsm import cli
from gvbsm.config.project import Pictures
from gvbsm.pipeline import graph
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.pictures import plan_picture
from gvbsm.pipeline.registry import write_plans
from gvbsm.pipeline.stage import Artifact
from gvbsm.store import keys
from gvbsm.store.code import PACKAGE
from gvbsm.store.job import Job
from gvbsm.store.locks import lock_file
from gvbsm.store.plans import PLANS, STORE, plan_file, target_file
from gvbsm.store.progress import progress_file
from gvbsm.store.receipts import receipt_path

CHECKPOINTS = Path("results/.checkpoints")
DELETE_ALL = ("--delete", "--unfinished")  # also of runs that are planned and not finished


@pytest.fixture
def fill_store(workspace) -> Callable[..., list[Artifact]]:
    """Fill the store with files that stand for a run's artifacts; the run is neither configured nor published."""
    configure("results/digits/ipc10/acc.json")

    def make(ipc: int = 4, recipe: str | None = None) -> list[Artifact]:
        planned = plan("tiny", ipc, recipe)
        write_plans(planned, published(ipc, recipe))
        for artifact in planned[:-1]:
            job = Job(spec=artifact.spec, out=STORE / artifact.path, store=STORE)
            if not job.out.exists():
                for path in artifact.spec.input_paths():
                    job.receipt(path)
                job.write_table(artifact.key, {})
        return planned

    return make


def configure(*targets: str) -> None:
    Path("config/config.yaml").write_text(yaml.safe_dump({"targets": list(targets), "data_root": "data"}))


def published(ipc: int = 4, recipe: str | None = None) -> Path:
    return Path(f"results/tiny/ipc{ipc}{f'-{recipe}' if recipe else ''}/acc.json")


def publish(planned: list[Artifact]) -> Path:
    """What gc reads of an acc.json."""
    spec = planned[-1].spec
    provenance = {"spec": spec.json_object, "artifacts": dict.fromkeys(spec.input_paths(), "")}
    file = published(spec.ipc, spec.recipe)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"key": planned[-1].key, "provenance": provenance}))
    return file


def run(capsys, *arguments: str, status: int = 0) -> list[str]:
    """Run gc in this process; return the lines it prints, of stderr if it fails."""
    assert cli.main(["gc", *arguments]) == status
    captured = capsys.readouterr()
    return (captured.err if status else captured.out).splitlines()


def listed(lines: list[str]) -> list[str]:
    """Titles of the entries."""
    return [line.split(" days  ")[1] for line in lines if " days  " in line]


def in_store(artifacts: list[Artifact]) -> set[str]:
    return {str(STORE / artifact.path) for artifact in artifacts if artifact.stage != "publish"}


def everything() -> set[Path]:
    return {path for path in Path("results").rglob("*") if path.is_file()}


def assert_clean(capsys) -> None:
    assert run(capsys) == ["0 entries, 0 bytes that nothing needs"]
    assert cli.main(["verify"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" 0 damaged")


def test_needed_by_the_configuration(fill_store, capsys):
    fill_store()
    configure(str(published()))
    assert run(capsys, "--delete") == ["0 entries, 0 bytes deleted"]
    assert_clean(capsys)


def test_needed_by_a_comparison(fill_store, capsys):
    fill_store()
    path = Path("config/config.yaml")
    path.write_text(path.read_text() + "comparisons: {both: [tiny/ipc4, digits/ipc10]}\n")
    assert run(capsys, "--delete") == ["0 entries, 0 bytes deleted"]
    assert_clean(capsys)


@pytest.mark.parametrize("planned_for", ["plans", "receipts"])
def test_needed_by_a_published_run(planned_for, fill_store, edit_row, capsys, monkeypatch):
    """An earlier acc.json names the statistics of the twins, but not the twins: gc finds these in plans or receipts."""
    now = graph._publish
    monkeypatch.setattr(graph, "_publish", lambda run, *others: now(replace(run, twins=[]), *others))
    edit_row({"statistics": {"measured_in": "twin"}})
    planned = fill_store()
    twins = {artifact.path for artifact in planned if artifact.stage == "squeeze"} - set(planned[-1].spec.input_paths())
    assert len(twins) == 3
    publish(planned)
    edit_row({"statistics": {"measured_in": "teacher"}, "recover": {"iterations": 7}})
    if planned_for == "receipts":
        shutil.rmtree(PLANS)
    assert run(capsys, "--delete") == ["0 entries, 0 bytes deleted"]
    assert in_store(planned) <= {str(path) for path in everything()}
    assert_clean(capsys)


def test_needed_by_neither(fill_store, edit_row, capsys):
    """A setting was changed and its run made anew: what it replaced is listed, and nothing else."""
    before = fill_store()
    edit_row({"relabel": {"batch_size": 8}})
    after = fill_store()
    publish(after)
    stale = in_store(before) - in_store(after)
    assert {Path(path).parent.name for path in stale} == {"relabel", "evaluate"}
    files = everything()
    lines = run(capsys)
    titles = listed(lines)
    target = str(target_file(before[-1].key).parent)
    assert titles == sorted(titles) and set(titles) - {f"{PLANS}: {len(stale)} plan files", target} == stale
    sizes = [int(line.split(" bytes ")[0].replace(",", "")) for line in lines[:-1]]
    entries = [(Path(title), receipt_path(Path(title))) for title in titles if title in stale]
    assert sizes[-len(entries) :] == [sum(file.stat().st_size for file in pair) for pair in entries]
    total = f"{len(titles)} entries, {sum(sizes):,} bytes"
    assert lines[-1] == f"{total} that nothing needs; delete them with: gvbsm gc --delete"
    assert run(capsys) == lines and everything() == files, "a listing changes nothing"
    deleted = run(capsys, "--delete")
    assert deleted[-1] == f"{total} deleted" and deleted[:-1] == lines[:-1]
    plans = [{plan_file(artifact.key) for artifact in run[:-1]} | {target_file(run[-1].key)} for run in (before, after)]
    gone = {file for pair in entries for file in pair} | plans[0] - plans[1]
    assert files - everything() == gone
    assert_clean(capsys)


def test_an_interrupted_run_stays(fill_store, capsys):
    """Neither configured nor published: its artifacts, the checkpoint of the job that was stopped, and its plans."""
    planned = fill_store()
    stopped = next(artifact for artifact in planned if artifact.stage == "recover")
    (STORE / stopped.path).unlink()
    receipt_path(STORE / stopped.path).unlink()
    (CHECKPOINTS / stopped.key).mkdir(parents=True)
    (CHECKPOINTS / stopped.key / "state.safetensors").write_text("state")
    progress_file(stopped.key).write_text("{}")
    files = everything()
    note = "note: what results/tiny/ipc4 needs is kept, since it is planned and not finished; --unfinished lists it too"
    assert run(capsys, "--delete") == [note, "0 entries, 0 bytes deleted"]
    assert everything() == files
    lines = run(capsys, "--unfinished")
    assert {str(CHECKPOINTS / stopped.key), *in_store(planned)} - {str(STORE / stopped.path)} < set(listed(lines))
    assert lines[-1].endswith("; delete them with: gvbsm gc --delete --unfinished") and note not in lines
    assert run(capsys, *DELETE_ALL)[:-1] == lines[:-1]
    assert not everything()


def test_a_published_run_that_is_made_anew(fill_store, edit_row, capsys):
    """What is planned after a run's publication is unfinished until it is published too; then the first one's own go."""
    before = fill_store()
    file = publish(before)
    edit_row({"relabel": {"batch_size": 8}})
    after = fill_store()
    assert run(capsys, "--delete")[-1] == "0 entries, 0 bytes deleted"
    assert in_store(before) | in_store(after) <= {str(path) for path in everything()}
    publish(after)
    assert in_store(before) - in_store(after) < set(listed(run(capsys, "--delete")))
    assert in_store(after) <= {str(path) for path in everything()}
    os.utime(file, (0, 0))  # as copies that keep times have it: the key alone says that the run is finished
    assert run(capsys) == ["0 entries, 0 bytes that nothing needs"]


def test_a_picture_that_is_planned_stays(fill_store, capsys):
    """Of a published run: the features that only the picture shows."""
    fill_store()
    configure(str(published()))
    planned = plan_picture("tiny", 4, None, "classes", Pictures(real=2, seed=0, perplexity=2))
    picture = published().parent / "pictures" / "classes.json"
    write_plans(planned, picture)
    features = next(artifact for artifact in planned if artifact.stage == "features")
    (CHECKPOINTS / features.key).mkdir(parents=True)
    assert run(capsys, "--delete")[-1] == "0 entries, 0 bytes deleted"
    assert (CHECKPOINTS / features.key).exists()
    picture.parent.mkdir(parents=True)
    spec = planned[-1].spec.json_object | {"perplexity": 3}  # drawn later, from other artifacts
    spec = spec | {"inputs": {"data": planned[0].path}}
    provenance = {"spec": spec, "artifacts": {}}
    picture.write_text(json.dumps({"key": keys.key(spec), "provenance": provenance}))
    assert str(CHECKPOINTS / features.key) in listed(run(capsys, "--delete"))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"name": "x", "spec": {"stage": "publish"}}'])
def test_a_damaged_plan_of_a_target(text, fill_store, capsys):
    """After a power cut, say: what its run needs cannot be known."""
    file = target_file(fill_store()[-1].key)
    file.write_text(text)
    files = everything()
    (line,) = run(capsys, "--delete", status=2)
    assert line.startswith(f"gvbsm: gc: nothing deleted: {file}: expected a plan, got ")
    assert line.endswith("; plan its target again with: snakemake -n TARGET; or delete the file, or add --unfinished")
    assert everything() == files
    assert run(capsys, *DELETE_ALL)[-1].endswith(" deleted") and not everything()


def test_other_numbers_of_images_and_recipes(fill_store, capsys):
    """What a smaller run shares with a larger one stays; the recipe's own artifacts go."""
    small, large, recipe = fill_store(2), fill_store(4), fill_store(4, "sre2l")
    configure(str(published(2)))
    needed = in_store(small)
    assert needed & in_store(large) and needed & in_store(recipe)
    titles = {title for title in listed(run(capsys, *DELETE_ALL)) if title.startswith(str(STORE))}
    assert titles == (in_store(large) | in_store(recipe)) - needed
    assert {str(path) for path in STORE.rglob("*") if path.suffix != ".json"} >= needed
    assert_clean(capsys)


def test_halves_are_deleted_too(fill_store, capsys):
    planned = fill_store()
    (STORE / planned[0].path).unlink()
    receipt_path(STORE / planned[1].path).unlink()
    assert set(listed(run(capsys, *DELETE_ALL))) > in_store(planned)
    assert_clean_and_empty(capsys)


def assert_clean_and_empty(capsys) -> None:
    assert not list(STORE.rglob("*.*"))
    assert_clean(capsys)


def gc_beside(*arguments: str) -> subprocess.CompletedProcess[str]:
    """gc in a process of its own, beside a lock that this one holds."""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-m", "gvbsm", "gc", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_what_a_job_uses_stays(fill_store, capsys):
    """A job by hand makes labels: these stay, their checkpoint, their inputs, and what the inputs were made from."""
    planned = fill_store()
    labels = next(artifact for artifact in planned if artifact.stage == "relabel")
    receipt_path(STORE / labels.path).unlink()  # it has written the one, and not yet the other
    folder = CHECKPOINTS / labels.key
    temporary = [STORE / "relabel" / f".{Path(labels.path).name}.99999999.tmp", folder / ".state.safetensors.99999999.tmp"]
    folder.mkdir(parents=True)
    for file in temporary:
        file.write_text("of a process on another machine")
    used = {"prepare", "squeeze", "statistics", "recover"}
    with filelock.FileLock(CHECKPOINTS / f"{labels.key}.lock"):
        done = gc_beside(*DELETE_ALL)
    assert done.returncode == 0, done.stderr
    remaining = {str(path) for path in STORE.rglob("*-*") if path.suffix in (".csv", ".safetensors")}
    assert remaining == in_store([artifact for artifact in planned if artifact.stage in used]) | {str(STORE / labels.path)}
    assert (PLANS / f"{labels.key}.json").exists() and (CHECKPOINTS / f"{labels.key}.lock").exists()
    assert all(file.exists() for file in temporary)
    run(capsys, *DELETE_ALL)  # the job has ended
    assert not folder.exists() and not list(CHECKPOINTS.iterdir())
    assert_clean_and_empty(capsys)


def test_a_job_without_a_plan(fill_store, capsys):
    planned = fill_store()
    (PLANS / f"{planned[5].key}.json").unlink()
    files = everything()
    lock = CHECKPOINTS / f"{planned[5].key}.lock"
    with filelock.FileLock(lock):
        refused, listing = gc_beside("--delete"), gc_beside()
    assert refused.returncode == 2
    why = f"{lock}: held by a job without a plan file, which would say what it reads; wait for its end"
    assert refused.stderr == f"gvbsm: gc: nothing deleted: {why}\n"
    assert listing.returncode == 0 and f"note: --delete refuses: {why}\n" in listing.stdout
    assert "lock file" not in listing.stdout
    assert everything() == files | {lock}


def test_a_running_snakemake(fill_store, capsys):
    fill_store()
    files = everything()
    lock = Path(".snakemake/locks/0.input.lock")
    lock.parent.mkdir(parents=True)
    lock.write_text("")
    (line,) = run(capsys, *DELETE_ALL, status=2)
    assert line.startswith("gvbsm: gc: nothing deleted: .snakemake/locks: a snakemake runs in this folder; wait for its end, ")
    assert line.endswith("snakemake --unlock")
    assert everything() == files
    assert listed(run(capsys, "--unfinished"))
    lock.unlink()  # what a snakemake that has ended leaves: an empty folder, or none
    assert run(capsys, *DELETE_ALL)[-1].endswith(" deleted")


def alter_a_path(text: str) -> str:
    return text.replace("prepare/digits-", "prepare/digitt-")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda text: text[:-1], "JSONDecodeError"),
        (lambda text: "[]", "TypeError"),
        (lambda text: "{}", "KeyError: 'provenance'"),
        (alter_a_path, "ValueError: key: expected "),
    ],
)
def test_an_acc_json_that_cannot_be_read(harm, reason, fill_store, capsys):
    file = publish(fill_store())
    file.write_text(harm(file.read_text()))
    files = everything()
    (line,) = run(capsys, "--delete", status=2)
    assert line.startswith(f"gvbsm: gc: nothing deleted: {file}: expected what publish wrote, got {reason}")
    assert line.endswith(f"; make it again with: rm -f {file} && snakemake --cores all {file}; or only delete it")
    assert everything() == files
    notes = [text for text in run(capsys) if text.startswith("note: ")]
    assert len(notes) == 1 and notes[0].startswith(f"note: --delete refuses: {file}: ")


def test_leftovers(fill_store, capsys):
    """Of dead processes and of keys that nothing needs; what may yet be used stays."""
    planned = fill_store()
    configure(str(published()))
    dead = subprocess.Popen(["true"])
    dead.wait()
    gone, here = f"{dead.pid}.tmp", f"{os.getpid()}.tmp"
    needed, unneeded = CHECKPOINTS / planned[1].key, CHECKPOINTS / "0123456789"
    for folder in (needed, unneeded):
        folder.mkdir(parents=True)
        (folder / "state.safetensors").write_text("state")
        (folder / f".state.safetensors.{gone}").write_text("half")
        folder.with_suffix(".lock").write_text("")
    (PLANS / "0123456789.json").write_text("{}")
    for name in (gone, here):
        (STORE / "squeeze" / f".x.safetensors.{name}").write_text("x")
    expected = [f"{CHECKPOINTS}/0123456789", f"{CHECKPOINTS}: 1 lock file", f"{needed}/.state.safetensors.{gone}"]
    expected += [f"{PLANS}: 1 plan file", f"{STORE}/squeeze/.x.safetensors.{gone}"]
    lines = run(capsys)
    assert listed(lines) == sorted(expected)
    assert next(line for line in lines if line.endswith("/0123456789")).split()[:2] == ["9", "bytes"]
    run(capsys, "--delete")
    assert {path.name for path in CHECKPOINTS.iterdir()} == {needed.name, f"{needed.name}.lock"}
    assert [path.name for path in needed.iterdir()] == ["state.safetensors"]
    assert [path.name for path in STORE.rglob(".*")] == [f".x.safetensors.{here}"]
    assert_clean(capsys)


def test_progress_files(fill_store, capsys):
    """A killed job's file stays while the job has something left to make. A running job keeps its own."""
    planned = fill_store()
    configure(str(published()))
    finished, unfinished, running = (artifact.key for artifact in planned[:3])
    (STORE / planned[1].path).unlink()
    receipt_path(STORE / planned[1].path).unlink()
    CHECKPOINTS.mkdir(exist_ok=True)
    for key in (finished, unfinished, running, "0123456789"):
        progress_file(key).write_text("{}")
    progress_file("mine").write_text("{}")
    temporary = CHECKPOINTS / f".{progress_file(running).name}.99999999.tmp"
    temporary.write_text("of a process on another machine")
    with filelock.FileLock(lock_file(running)):
        done = gc_beside("--delete")
    assert done.returncode == 0 and f"{CHECKPOINTS}: 2 progress files" in done.stdout
    assert {file for file in everything() if "progress" in file.name} == {
        *(progress_file(name) for name in (unfinished, running, "mine")),
        temporary,
    }
    assert listed(run(capsys, "--delete")) == [str(temporary), f"{CHECKPOINTS}: 1 progress file"]


def test_foreign_files_stay(fill_store, capsys):
    fill_store()
    others = [STORE / "squeeze" / "notes.txt", PLANS / "mine.json", CHECKPOINTS / "mine.lock", Path("results/tiny/x.txt")]
    for file in others:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    run(capsys, *DELETE_ALL)
    assert everything() == set(others)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("results/tinny/ipc4/acc.json", "unknown data set 'tinny'; did you mean 'tiny'"),
        ("results/tiny", r"targets[0]: target 'results/tiny': expected"),
    ],
)
def test_a_wrong_target(target, message, fill_store, capsys):
    fill_store()
    files = everything()
    configure(target)
    for arguments in ([], ["--delete"]):
        (line,) = run(capsys, *arguments, status=2)
        assert message in line
    assert everything() == files


def test_what_cannot_be_deleted(fill_store, monkeypatch, capsys):
    fill_store()

    def failing(path, missing_ok=False):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", failing)
    expected = run(capsys, "--unfinished")[:-1]
    assert cli.main(["gc", *DELETE_ALL]) == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines() == expected, "all is listed before anything is deleted"
    (line,) = captured.err.splitlines()
    assert line.endswith(": cannot be deleted: Permission denied; make its folder writable")


def test_nothing_made_yet(workspace, capsys):
    assert run(capsys) == ["0 entries, 0 bytes that nothing needs"]
    assert not Path("results").exists()
