"""Fixtures shared by all tests: a working folder with a data set row small enough to run in seconds."""

import contextlib
import http.server
import importlib
import importlib.util
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

# Before torch is imported: tests run beside each other, one on each core, and so do the processes that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
import yaml

if not torch.cuda.is_available():  # before Triton is imported: its kernels run in its interpreter, on the CPU
    os.environ.setdefault("TRITON_INTERPRET", "1")

from filelock import FileLock

from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import STAGES
from gvbsm.pipeline.specs import read_spec
from gvbsm.pipeline.stage import Artifact
from gvbsm.store.code import PACKAGE
from gvbsm.store.job import Job
from gvbsm.store.plans import STORE
from tests.tiny import TINY

SLURM_NODE = Path(__file__).parent / "workflow" / "slurm_node.sh"
TARGET = "results/tiny/ipc4/acc.json"
PROGRAM = ("gvbsm", "snakemake_logger_plugin_gvbsm", "workflow")

# Nightly groups whose tests want a machine's one cluster or browser, or watch processes by the clock: one after another.
ALONE = ("slurm", "browser", "processes")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("nightly_groups", "what takes long and guards what rarely changes: NAME: what", type="linelist")
    parser.addoption("--nightly-group", metavar="NAME", help="run the nightly tests of one group, or of all, and no others")


def nightly_groups(config: pytest.Config) -> list[str]:
    return [line.partition(":")[0] for line in config.getini("nightly_groups")]


def pytest_configure(config: pytest.Config) -> None:
    group, groups = config.getoption("--nightly-group"), nightly_groups(config)
    if group is not None:
        if group not in ("all", *groups):
            raise pytest.UsageError(f"--nightly-group: expected all or one of {', '.join(groups)}, got {group!r}")
        config.option.markexpr = "nightly"


@pytest.hookimpl(tryfirst=True)  # while the nightly tests are still among the others
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted, groups = config.getoption("--nightly-group"), nightly_groups(config)
    others = []
    for item in items:
        if (marker := item.get_closest_marker("nightly")) is not None:
            if len(marker.args) != 1 or marker.args[0] not in groups:
                raise pytest.UsageError(f"{item.nodeid}: expected nightly with one of {', '.join(groups)}, got {marker.args}")
            (group,) = marker.args
            if group in ALONE:
                item.add_marker(pytest.mark.xdist_group(group))
            if wanted not in (None, "all", group):
                others.append(item)
    if others:
        items[:] = [item for item in items if item not in others]
        config.hook.pytest_deselected(items=others)
    # One process makes the published run while the others have tests that do not wait for it.
    for item in items:
        if "published_clone" in getattr(item, "fixturenames", ()):
            items.insert(0, items.pop(items.index(item)))
            break


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process per core, or none beside the first where files are named: each takes seconds to start."""
    named = [argument for argument in config.args if ".py" in argument]
    return 0 if named else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same inputs each time, alone or after others, whether or not it sets a seed of its own."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (the state that others' code draws from)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def one_thread():
    """Stages set the number of threads; tests leave it as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with the project's config and the row `tiny`; the tests run in it."""
    write_workspace(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_workspace(folder: Path) -> None:
    shutil.copytree(PACKAGE.parent / "config", folder / "config", dirs_exist_ok=True)
    (folder / "config" / "datasets" / "tiny.yaml").write_text(yaml.safe_dump(TINY, sort_keys=False))


@pytest.fixture(scope="session")
def published_clone(shared_folder: Callable[..., Path]) -> Path:
    """A clone of the project in which tiny's run of IPC 4 is published, in a folder of an odd name.

    One process makes all artifacts: twenty would spend most of their time on importing torch. Snakemake publishes.
    """

    def make_it(folder: Path) -> None:
        for part in PROGRAM:
            shutil.copytree(PACKAGE.parent / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        write_workspace(folder)
        threads = torch.get_num_threads()
        with contextlib.chdir(folder):
            for artifact in plan("tiny", 4)[:-1]:
                make(artifact)
        torch.set_num_threads(threads)  # stages set it
        done = snakemake(folder, "--cores", "2")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "\n1 job: 1 publish. " in done.stderr, done.stderr

    return shared_folder("it's (a) $HOME & more; ü %s", make_it)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder that is made once, by the first process of the run that asks for it; nobody changes it afterwards."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of the whole run, else of this process

    def once(name: str, make_it: Callable[[Path], None]) -> Path:
        folder, failed = root / name, root / f"{name}.failed"
        with FileLock(root / f"{name}.lock"):
            if failed.exists():
                pytest.fail(f"{name} could not be made, as its first test says")
            if not folder.exists():
                failed.touch()  # unless what follows comes to its end
                folder.mkdir()
                make_it(folder)
                failed.unlink()
        return folder

    return once


def snakemake(folder: Path, *arguments: str, target: str = TARGET) -> subprocess.CompletedProcess[str]:
    """Run snakemake in a clone of the project, with the clone's package."""
    environment = os.environ | {"PYTHONPATH": str(folder), "GVBSM_DEVICE": "cpu"}
    command = [sys.executable, "-m", "snakemake", *arguments, *([target] if target else [])]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture
def published_run(published_clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Artifact]:
    """The artifacts of tiny's published run. The test runs in a copy of the working folder that holds them."""
    for part in ("config", "results"):
        shutil.copytree(published_clone / part, tmp_path / part)
    monkeypatch.chdir(tmp_path)
    return plan("tiny", 4)


@pytest.fixture
def copied_clone(published_clone: Path, published_run: list[Artifact], tmp_path: Path) -> Path:
    """The working folder of `published_run`, with the program in it: a clone that Snakemake runs in."""
    for part in (*PROGRAM, ".snakemake"):
        shutil.copytree(published_clone / part, tmp_path / part)
    return tmp_path


@pytest.fixture
def edit_row() -> Callable[..., None]:
    """Lay changes over a row of the working folder, `tiny` if none is named."""

    def edit(changes: dict[str, Any], row: str = "tiny") -> None:
        path = Path("config") / "datasets" / f"{row}.yaml"
        raw = yaml.safe_load(path.read_text()) if path.exists() else {}
        path.write_text(yaml.safe_dump(overlay(raw, changes), sort_keys=False))

    return edit


def overlay(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = overlay(merged[name], value) if both else value
    return merged


def make(artifact: Artifact, seconds: float = 1e9) -> Path:
    """Run one stage in this process, its spec checked as the command checks it, and return its artifact."""
    out = STORE / artifact.path
    job = Job(
        spec=read_spec(STAGES[artifact.stage], json.dumps(artifact.spec.json_object)),
        out=out,
        store=STORE,
        device="cpu",
        checkpoints=Path("results/.checkpoints") / artifact.key,
        checkpoint_seconds=seconds,
    )
    importlib.import_module(f"gvbsm.stages.{artifact.stage}").run(job)
    return out


@pytest.fixture
def make_up_to() -> Callable[..., list[Artifact]]:
    """Make every artifact of tiny's run up to and including a stage; return all that are planned."""

    def run(stage: str, ipc: int = 4, recipe: str | None = None, row: str = "tiny") -> list[Artifact]:
        planned = plan(row, ipc, recipe)
        last = max(index for index, artifact in enumerate(planned) if artifact.stage == stage)
        for artifact in planned[: last + 1]:
            if artifact.stage != "publish" and not (STORE / artifact.path).exists():
                make(artifact)
        return planned

    return run


@pytest.fixture
def make_artifact() -> Callable[..., Path]:
    return make


@pytest.fixture
def command_of() -> Callable[[Artifact], list[str]]:
    """The arguments of `gvbsm` that make an artifact whose plan is written."""

    def arguments(artifact: Artifact) -> list[str]:
        plan_file = f"results/.plan/{artifact.key}.json"
        return [artifact.stage, "--spec", plan_file, "--out", str(STORE / artifact.path), "--device", "cpu"]

    return arguments


@pytest.fixture
def run_snakemake(copied_clone: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Snakemake in the copy of the clone."""
    return lambda *arguments, target=TARGET: snakemake(copied_clone, *arguments, target=target)


@pytest.fixture
def stale(run_snakemake: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., dict[str, int]]:
    """What `snakemake -n` would run: {rule: jobs}."""

    def ask(target: str = TARGET, *others: str) -> dict[str, int]:
        done = run_snakemake("-n", *others, target=target)
        text = done.stdout + done.stderr
        assert done.returncode == 0, text
        if "Nothing to be done" in text:
            return {}
        table = text.partition("Job stats:")[2].partition("total")[0]
        return {rule: int(count) for rule, count in re.findall(r"^(\w+)\s+(\d+)\s*$", table, re.MULTILINE)}

    return ask


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which a local server offers its files."""
    folder = tmp_path_factory.mktemp("served")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[None]:
    """A controller and a node on this machine while the test runs."""
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons need root")
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name)]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here: apt-get install slurm-wlm munge")
    if not importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        pytest.skip('no executor plugin here: pip install -e ".[slurm]"')
    folder = tmp_path / "slurm"
    done = subprocess.run(["bash", SLURM_NODE, "start", folder], capture_output=True, text=True)
    if done.returncode:
        subprocess.run(["bash", SLURM_NODE, "stop", folder])
        pytest.skip(f"SLURM does not start here: {done.stderr.strip()}")
    yield
    subprocess.run(["bash", SLURM_NODE, "stop", folder], check=True)
