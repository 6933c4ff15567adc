"""The scripts for a borrowed GPU machine, with a stand-in for what they start: what they run, how long, and what comes back."""

import importlib.util
import itertools
import os
import random
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not all(map(shutil.which, ("bash", "timeout", "tar"))), reason="needs bash, timeout and tar")

# Notes what it is to run; a process that only builds takes a while.
PYTHON = """#!/bin/bash
echo "${*//$'\\n'/ }" >> "$LOG"
case "$*" in
    *"--repeats 1 "*" step") echo $$ >> "$LOG.pids"; exec sleep "${BUILD_SECONDS:-0}" ;;
esac
"""


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """A folder that holds the scripts alone, and a `python3` that only takes notes."""
    root = tmp_path / "project"
    for name in ("gpu.sh", "gpu_common.sh", "studies/gpu.sh", "studies/collect.py"):
        (root / "benchmarks" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "benchmarks" / name, root / "benchmarks" / name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text(PYTHON)
    (tmp_path / "bin" / "python3").chmod(0o755)
    (tmp_path / "out").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name, value in {"LOG": "log", "OUT": "out", "HOME": "home", "TMPDIR": ""}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    for name in ("BACKBONE", "BATCH", "REPEATS", "SLOW", "GVBSM_DEVICE", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    return root


def shell(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", *command], cwd=root, capture_output=True, text=True, timeout=60)


def noted(root: Path) -> list[str]:
    """What was started, of each the name that the script gives the step, in order."""
    names = []
    for line in (root.parent / "log").read_text().splitlines():
        words = line.split()
        if "pytest" in words:
            names.append("tests")
        elif "benchmarks" in words:
            which = next((word for word in words[2:] if word in ("step", "profile", "student", "tuning", "ceilings")), "?")
            options = dict(itertools.pairwise(words))
            parts = ["build" if options["--repeats"] == "1" else which, options.get("--setting"), options.get("--backbone")]
            parts += [options.get("--precision")] if parts[0] == "build" else []
            names.append("-".join(filter(None, parts)))
    return names


TEACHERS = {
    "cifar": ["convnet", "resnet18", "wrn16_2", "mobilenet_v2", "shufflenet_v2"],
    "imagenet": ["resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5"],
}
BUILDS = {
    f"build-{which}-{name}-{precision}"
    for which, names in TEACHERS.items()
    for name in names
    for precision in ("float32", "bfloat16")
}


def test_all_kernels_are_built_at_once_then_comes_what_is_worth_most(machine):
    done = shell(machine, "benchmarks/gpu.sh", "run", "100")
    assert done.returncode == 0, done.stderr
    names = noted(machine)
    assert len(BUILDS) == 18 and set(names[:18]) == BUILDS
    assert names[18:] == [
        "tests",
        *(f"step-cifar-{name}" for name in TEACHERS["cifar"]),
        *("profile-cifar-resnet18", "profile-cifar-mobilenet_v2"),
        *(f"step-imagenet-{name}" for name in TEACHERS["imagenet"]),
        *("student", "profile-imagenet-resnet18", "tuning", "step-imagenet-mobilenet", "ceilings"),
    ]
    assert [path.name for path in (machine.parent / "out").iterdir()] == ["results.tar.gz"]
    with tarfile.open(machine.parent / "out" / "results.tar.gz") as archive:
        kept = archive.getnames()
        steps = archive.extractfile("./done.txt").read().decode().split()
    assert {f"./{name}.txt" for name in BUILDS | {"build"}} <= set(kept)
    assert len(steps) == 17 and "build" not in steps, "another machine has to build for itself"


def test_a_second_run_builds_for_what_is_left_alone(machine):
    shell(machine, "benchmarks/gpu.sh", "run", "100")
    (machine.parent / "log").unlink()
    shell(machine, "benchmarks/gpu.sh", "unpack", str(machine.parent / "out" / "results.tar.gz"))
    for name in ("step-imagenet-resnet18", "profile-cifar-mobilenet_v2", "student"):
        (machine / ".gpu" / "done" / name).unlink()
    shell(machine, "benchmarks/gpu.sh", "run", "100")
    builds = {name for name in BUILDS if "imagenet-resnet18" in name or "cifar-mobilenet_v2" in name}
    assert set(noted(machine)[:4]) == builds
    assert noted(machine)[4:] == ["profile-cifar-mobilenet_v2", "step-imagenet-resnet18", "student"]


def test_kernels_that_take_too_long_leave_nothing_behind(machine, monkeypatch):
    monkeypatch.setenv("BUILD_SECONDS", "600")
    started = time.monotonic()
    done = shell(machine, "-c", 'timeout -s TERM -k 5 3 benchmarks/gpu.sh build "$OUT"')
    assert done.returncode == 124 and time.monotonic() - started < 20
    processes = (machine.parent / "log.pids").read_text().split()
    assert len(processes) == 18, "all of them at once"
    time.sleep(0.5)
    assert not [process for process in processes if alive(int(process))]


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("where", ["data", "../shared/data", None])
@pytest.mark.parametrize("script", ["benchmarks/gpu.sh", "benchmarks/studies/gpu.sh"])
def test_the_data_travel_from_the_checkout_or_from_beside_it(script, where, machine):
    (machine / ".git" / "info").mkdir(parents=True)
    (machine / ".git" / "info" / "exclude").touch()
    if where:
        (machine / where).mkdir(parents=True)
        (machine / where / "cifar10-jpeg.tar.xz").write_text("images")
    done = shell(machine, script, "pack")
    packed = machine / ".gpu" / "data" / "cifar10-jpeg.tar.xz"
    if where:
        assert done.returncode == 0 and packed.read_text() == "images"
    elif script == "benchmarks/gpu.sh":
        assert done.returncode == 0 and not packed.exists(), "timings need no data"
    else:
        assert done.returncode == 1 and "cifar10-jpeg.tar.xz: expected it in data/ or ../shared/data/" in done.stderr
        assert not (machine / ".gpu").exists()


@pytest.fixture
def collect():
    spec = importlib.util.spec_from_file_location("collect", ROOT / "benchmarks" / "studies" / "collect.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path: str, size: int) -> None:
    """Bytes that no archive makes smaller."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(random.Random(path).randbytes(size))


def opened(folder: Path) -> list[dict[str, bytes]]:
    """The files of every archive, each read by itself."""
    found = []
    for path in sorted(folder.iterdir()):
        with tarfile.open(path) as archive:
            found.append({entry.name: archive.extractfile(entry).read() for entry in archive})
    return found


def test_what_is_worth_most_comes_back_first_and_each_archive_by_itself(collect, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in {"EACH": 10_000, "TOGETHER": 36_000}.items():
        monkeypatch.setattr(collect, name, value)
    small = {"results/a/ipc10/acc.json": 400, "results/store/recover/x.json": 300, "results/a/compare.csv": 2_000}
    tensors = {f"results/store/recover/{number}.safetensors": 6_000 + number for number in range(9)}
    others = {
        "results/store/squeeze/teacher.safetensors": 500,  # is made anew
        "results/.checkpoints/x/images.csv": 500,
        "results/store/relabel/large.safetensors": 11_000,  # larger than an archive
        "results/logs/a.txt": 2_500,
        "results/store/relabel/labels.safetensors": 1_000,
    }
    for path, size in (small | tensors | others).items():
        write(path, size)
    folder = tmp_path / "out"
    folder.mkdir()
    collect.main(Path("results"), folder)
    archives = opened(folder)
    assert [path.name for path in sorted(folder.iterdir())] == [f"results.{n}.tar.gz" for n in range(1, len(archives) + 1)]
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert len(sizes) <= collect.MOST and max(sizes) <= 10_000 and sum(sizes) <= 36_000
    assert [*archives[0]] == [
        *sorted(small, key=small.get), "results/logs/a.txt", "results/store/relabel/labels.safetensors"
    ]  # fmt: skip
    names = [name for archive in archives for name in archive]
    assert names[5:] == [*tensors][: len(names) - 5] and 3 <= len(names) - 5 < 9
    for archive in archives:
        for name, data in archive.items():
            assert data == Path(name).read_bytes()


def test_archives_of_an_earlier_minute_go_and_nothing_else_lies_there(collect, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(collect, "EACH", 5_000)
    folder = tmp_path / "out"
    folder.mkdir()
    for number in range(3):
        write(f"results/store/recover/{number}.safetensors", 4_000)
    collect.main(Path("results"), folder)
    assert len(opened(folder)) == 3 and "left out" not in capsys.readouterr().out
    for number in range(2):
        Path(f"results/store/recover/{number}.safetensors").unlink()
    write("results/store/recover/many.safetensors", 6_000)
    collect.main(Path("results"), folder)
    assert [*map(list, opened(folder))] == [["results/store/recover/2.safetensors"]]
    assert "left out: 1 files, from results/store/recover/many.safetensors on" in capsys.readouterr().out


def test_a_damaged_archive_loses_itself_alone(machine, collect, monkeypatch):
    monkeypatch.chdir(machine)
    monkeypatch.setattr(collect, "EACH", 5_000)
    expected = {}
    for number in range(3):
        write(f"results/store/recover/{number}.safetensors", 4_000)
        expected[number] = Path(f"results/store/recover/{number}.safetensors").read_bytes()
    collect.main(Path("results"), machine.parent / "out")
    shutil.rmtree("results")
    archives = sorted(map(str, (machine.parent / "out").iterdir()))
    os.truncate(archives[0], 1_000)
    done = shell(machine, "benchmarks/studies/gpu.sh", "unpack", *archives)
    assert done.returncode == 1 and f"{archives[0]}: not unpacked whole" in done.stderr
    for number in (1, 2):
        assert Path(f"results/store/recover/{number}.safetensors").read_bytes() == expected[number]


def test_what_one_machine_made_travels_to_the_next(machine, collect, monkeypatch):
    monkeypatch.chdir(machine)
    (machine / ".git" / "info").mkdir(parents=True)
    (machine / ".git" / "info" / "exclude").touch()
    (machine / "data").mkdir()
    (machine / "data" / "cifar10-jpeg.tar.xz").write_text("images")
    write("results/store/recover/first.safetensors", 4_000)
    expected = Path("results/store/recover/first.safetensors").read_bytes()
    collect.main(Path("results"), machine.parent / "out")
    shutil.rmtree("results")
    archives = sorted(map(str, (machine.parent / "out").iterdir()))
    done = shell(machine, "benchmarks/studies/gpu.sh", "pack", *archives)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("TARGETS", "results/any/acc.json")
    done = shell(machine, "benchmarks/studies/gpu.sh", "run", "1")
    assert Path("results/store/recover/first.safetensors").read_bytes() == expected, done.stderr
    done = shell(machine, "benchmarks/studies/gpu.sh", "pack")
    assert done.returncode == 0 and not (machine / ".gpu" / "earlier").exists(), "those of another day stay here"
