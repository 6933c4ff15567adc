"""Curves in TensorBoard and Weights & Biases: what they hold, and that they never stop a job."""

import csv
import http.server
import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gvbsm import cli
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import write_plans
from gvbsm.pipeline.stage import Artifact
from gvbsm.runtime import checkpoints, tracking, watching
from gvbsm.runtime.progress import Progress
from gvbsm.runtime.watching import watched
from gvbsm.store.code import PACKAGE
from gvbsm.store.files import file_hash
from gvbsm.store.job import Job
from gvbsm.store.plans import STORE
from gvbsm.store.spec import Spec
from gvbsm.training import fit

TARGET = Path("results/tiny/ipc4/acc.json")


def some_job(tmp_path: Path) -> Job:
    out = Path("results/store/squeeze/digits-net-0123456789.safetensors")
    return Job(spec=Spec(stage="squeeze"), out=out, store=tmp_path / "store")


def curve(folder: Path, name: str) -> dict[int, float]:
    """A curve of TensorBoard's; every step must be there once."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = events.EventAccumulator(str(folder)).Reload()
    values = [(event.step, event.value) for event in read.Scalars(name)] if name in read.Tags()["scalars"] else []
    assert len(dict(values)) == len(values)
    return dict(values)


def table_of(artifact: Artifact, seed: int, name: str) -> dict[int, float]:
    with (STORE / artifact.path).open() as file:
        rows = [row for row in csv.DictReader(file) if row["seed"] == str(seed) and row[name]]
    return {int(row["epoch"]): pytest.approx(float(row[name]), rel=1e-6) for row in rows}


def test_tensorboard_has_what_the_table_has(published_run, monkeypatch, command_of):
    """Also of a job that was stopped: a step that it did twice counts once. The artifact's bytes are those without tracking."""
    artifact = next(artifact for artifact in published_run if artifact.stage == "evaluate")
    before = file_hash(STORE / artifact.path)
    (STORE / artifact.path).unlink()
    monkeypatch.setenv("GVBSM_TRACKING", "tensorboard")
    tick, ticks = checkpoints.Checkpoint.tick, 0

    def stopping(self, state):
        nonlocal ticks
        ticks += 1
        if ticks == 22:  # in the second seed
            raise KeyboardInterrupt  # nothing is saved
        tick(self, state)

    monkeypatch.setattr(checkpoints.Checkpoint, "tick", stopping)
    monkeypatch.setattr(fit, "_FETCH_SECONDS", 0.0)  # a process that cannot save its state tells of what it has fetched
    assert cli.main(command_of(artifact)) == 130
    folder = Path("results/tracking/tensorboard/evaluate") / Path(artifact.path).stem
    assert len(curve(folder / "seed1", "loss")) == 3, "it was stopped in the fourth epoch"
    assert cli.main(command_of(artifact)) == 0
    assert file_hash(STORE / artifact.path) == before
    for seed in (0, 1):
        for name in ("loss", "top1", "top5"):
            assert curve(folder / f"seed{seed}", name) == table_of(artifact, seed, name)
        assert set(curve(folder / f"seed{seed}", "images_per_second")) == {1, 2, 3, 4}


def test_stages_without_losses_are_tracked_too(published_run, monkeypatch, command_of):
    artifact = next(artifact for artifact in published_run if artifact.stage == "relabel")
    (STORE / artifact.path).unlink()
    monkeypatch.setenv("GVBSM_TRACKING", "tensorboard")
    assert cli.main(command_of(artifact)) == 0
    folder = Path("results/tracking/tensorboard/relabel") / Path(artifact.path).stem
    assert set(curve(folder, "images_per_second")) == {1, 2}


def test_no_tracking_by_default(published_run, monkeypatch, command_of):
    monkeypatch.delenv("GVBSM_TRACKING", raising=False)
    artifact = next(artifact for artifact in published_run if artifact.stage == "relabel")
    (STORE / artifact.path).unlink()
    assert cli.main(command_of(artifact)) == 0
    assert not Path("results/tracking").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_stops_the_job_before_its_work(name, workspace, monkeypatch, capsys, command_of):
    planned = plan("tiny", 4)
    write_plans(planned, TARGET)
    Path(name).mkdir()  # as wandb makes one where it is called: no package
    monkeypatch.setattr(sys, "path", [str(Path.cwd())])
    monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    monkeypatch.setenv("GVBSM_TRACKING", name)
    assert cli.main(command_of(planned[0])) == 2
    remedy = f'pip install "gvbsm[tracking]" (or {name}), or set tracking: none in config.yaml'
    assert capsys.readouterr().err == f"gvbsm: tracking: {name}: expected the package {name}, got none; {remedy}\n"
    assert not STORE.exists() and not Path("results/.checkpoints").exists()


def test_an_unknown_tracker(workspace, monkeypatch, capsys, command_of):
    planned = plan("tiny", 4)
    write_plans(planned, TARGET)
    monkeypatch.setenv("GVBSM_TRACKING", "tensorbord")
    assert cli.main(command_of(planned[0])) == 2
    expected = "gvbsm: GVBSM_TRACKING: expected none or one of tensorboard, wandb, got 'tensorbord'; correct it\n"
    assert capsys.readouterr().err == expected


def test_a_tracker_that_fails_is_given_up(tmp_path, monkeypatch, capsys):
    """Once, in one line, and the job goes on."""
    monkeypatch.setenv("GVBSM_TRACKING", "tensorboard")
    job = some_job(tmp_path)
    (tmp_path / "tracking").write_text("a file where the folder should be")
    with watched(job, tmp_path / "x.progress.json", tracking.tracker(job)):
        progress = Progress(job.title, 3)
        for _ in range(3):
            progress.step(loss=1.0)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tracking: ")]
    assert len(lines) == 1 and lines[0].startswith("tracking: tensorboard failed, the job goes on without it: ")


def test_other_processes_of_a_job_do_not_track(tmp_path, monkeypatch):
    monkeypatch.setenv("GVBSM_TRACKING", "tensorboard")
    job = some_job(tmp_path)
    job.writes = False
    assert tracking.tracker(job) is None
    with watched(job, tmp_path / "x.progress.json"):
        assert watching.current() is None
    assert not list(tmp_path.iterdir())


@pytest.fixture
def proxy():
    """The address of a server that refuses every request, and the list of requests."""
    requests: list[str] = []

    class Refusing(http.server.BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            requests.append(self.rfile.readline().decode(errors="replace"))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()


def wandb_run(command: list[str], address: str, **environment: str) -> subprocess.CompletedProcess[str]:
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "WANDB_BASE_URL"), address)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    home = {"HOME": str(Path.cwd() / "home"), "PYTHONPATH": str(PACKAGE.parent), "GVBSM_TRACKING": "wandb"}
    command = [sys.executable, "-m", "gvbsm", *command]
    return subprocess.run(command, env=variables | proxies | home | environment, capture_output=True, text=True, timeout=400)


@pytest.mark.nightly("tracking")
def test_wandb_offline(published_run, proxy, command_of):
    """Its files appear, all below results/tracking. It asks nothing of a server, nor of the user."""
    pytest.importorskip("wandb", reason='no wandb here: pip install "gvbsm[tracking]"')
    artifact = next(artifact for artifact in published_run if artifact.stage == "evaluate")
    before = file_hash(STORE / artifact.path)
    (STORE / artifact.path).unlink()
    address, requests = proxy
    done = wandb_run(command_of(artifact), address)
    assert done.returncode == 0 and "tracking: " not in done.stderr and "wandb" not in done.stderr, done.stderr
    runs = sorted(Path("results/tracking/wandb").glob("offline-run-*/*.wandb"))
    assert [run.name for run in runs] == [f"run-{artifact.key}-seed{seed}.wandb" for seed in (0, 1)]
    assert all(b"top1" in run.read_bytes() for run in runs)
    assert file_hash(STORE / artifact.path) == before
    assert requests == []
    assert not list(Path("home").rglob("*")) and not Path("wandb").exists()


@pytest.mark.nightly("tracking")
@pytest.mark.parametrize(
    "environment", [{}, {"WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "3"}], ids=["no login", "no server"]
)
def test_wandb_online_without_a_login_or_a_server(environment, published_run, proxy, command_of):
    """It does not ask for a login, and does not fail the job; the files stay here."""
    pytest.importorskip("wandb", reason='no wandb here: pip install "gvbsm[tracking]"')
    artifact = next(artifact for artifact in published_run if artifact.stage == "relabel")
    (STORE / artifact.path).unlink()
    address, requests = proxy
    done = wandb_run(command_of(artifact), address, WANDB_MODE="online", **environment)
    assert done.returncode == 0, done.stderr
    (warning,) = [line for line in done.stderr.splitlines() if line.startswith("tracking: ")]
    assert warning.startswith("tracking: wandb cannot be reached, its files stay here for `wandb sync`: ")
    assert list(Path("results/tracking/wandb").glob("offline-run-*/*.wandb"))
    assert requests, "the proxy saw no request: then the offline test proves nothing"
