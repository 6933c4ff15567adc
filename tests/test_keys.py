"""Canonical specs, keys, seeds, and fingerprints that follow the code and nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gvbsm.backbones import BACKBONES
from gvbsm.pipeline.registry import STAGES
from gvbsm.store import code, keys

SOURCE = code.PACKAGE


def test_canonical_ignores_order_and_what_is_off():
    assert keys.canonical({"b": 1, "a": {"y": None, "x": 2.5}}) == keys.canonical({"a": {"x": 2.5}, "b": 1})
    assert keys.key({"a": 1}) != keys.key({"a": 2}) != keys.key({"a": [2]})
    assert len(keys.key({})) == 10
    with pytest.raises(ValueError, match="JSON"):
        keys.canonical(float("nan"))


def test_seeds_differ_by_every_part_and_repeat():
    seeds = {keys.derive_seed(0, "noise", batch, step) for batch in range(50) for step in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert keys.derive_seed("a", 1) == keys.derive_seed("a", 1) != keys.derive_seed("a", 2)


READ: dict[tuple[Path, str], tuple[str, tuple[str, ...]]] = {}  # what the modules of the copy hold, by path and text


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package."""
    copy = tmp_path_factory.mktemp("sources") / "gvbsm"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture
def package(sources: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package that fingerprints are taken from. A file is read again only if its text has changed."""
    read = code._read_module.__wrapped__

    def read_module(path: Path) -> tuple[str, tuple[str, ...]]:
        text = path.read_text()
        if (path, text) not in READ:
            READ[path, text] = read(path)
        return READ[path, text]

    monkeypatch.setattr(code, "PACKAGE", sources)
    monkeypatch.setattr(code, "_read_module", read_module)
    code._fingerprint.cache_clear()
    yield sources
    code._fingerprint.cache_clear()


def changed_stages(package: Path, file: str, old: str, new: str) -> set[str]:
    """Stages whose fingerprint an edit changes; resnet10 stands for the networks of a spec."""
    builders = (BACKBONES["resnet10"],)

    def take() -> dict[str, dict[str, str]]:
        code._fingerprint.cache_clear()
        return {
            stage: code.fingerprint(stage, () if stage in ("prepare", "adopt", "convert", "publish", "draw") else builders)
            for stage in STAGES
        }

    before = take()
    text = (package / file).read_text()
    assert old in text
    (package / file).write_text(text.replace(old, new, 1))
    try:
        after = take()
    finally:
        (package / file).write_text(text)
    return {stage for stage in STAGES if before[stage] != after[stage]}


@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        ("method/densification.py", "POOLED = 32", "POOLED = 16", {"recover"}),
        ("method/moments.py", "/ count - mean", "/ (count - 1) - mean", {"statistics", "recover"}),
        ("method/soft_labels.py", "mean(0)", "sum(0)", {"relabel", "evaluate", "student"}),
        ("method/losses.py", "beta: float = 2.0", "beta: float = 3.0", {"evaluate", "student"}),
        ("method/crops.py", "tries = 10", "tries = 9", set(STAGES) - {"adopt", "draw", "prepare"}),
        ("method/selection.py", "avg_pool2d", "max_pool2d", {"select"}),
        ("training/fit.py", "math.pi * epoch", "math.pi * (epoch + 1)", {"squeeze", "evaluate", "student"}),
        ("training/synchronised.py", "rsqrt(var + self.eps)", "rsqrt(var)", {"squeeze", "evaluate", "student"}),
        ("runtime/arithmetic.py", '"high" if', '"medium" if', set(STAGES)),
        ("store/keys.py", ">> 1", ">> 2", set(STAGES)),
        ("method/diversity.py", "1 - cosine", "2 - cosine", {"features"}),
        ("pictures/figures.py", "int = 120", "int = 90", {"draw", "publish"}),
        ("pictures/curves.py", "_MANY = 25", "_MANY = 30", set()),  # the builder of one picture, as networks are
        ("stages/prepare.py", '"train_images": len', '"images": len', {"prepare"}),
        ("data/folders.py", '".tiff", ".gif"', '".tiff"', set(STAGES) - {"recover", "draw"}),  # which files are images
        (
            "backbones/resnet.py",
            "channels: int = 3",
            "channels: int = 1",
            {"check", "squeeze", "statistics", "select", "recover", "judge", "relabel", "evaluate", "student", "features"},
        ),
        ("backbones/mobilenet_v2.py", "width: float = 0.5", "width: float = 1.0", set()),
        ("config/bounds.py", "le=100_000", "le=200_000", set()),
        ("store/job.py", '"git": ', '"revision": ', set()),
        ("cli/__init__.py", "return 2", "return 3", set()),
        ("runtime/progress.py", "15.0", "30.0", set()),
        ("backbones/__init__.py", "BACKBONES = {", 'BACKBONES = {"another": "gvbsm.backbones.wrn:wrn16_2", ', set()),
        ("method/densification.py", "import torch\n", "import torch  # the tensor library\n", set()),
        ("method/densification.py", '"""The Gram matrices', '"""All Gram matrices', set()),
        ("method/densification.py", "\n\ndef gram", "\n\n\n\ndef gram", set()),
    ],
)
def test_an_edit_changes_the_fingerprints_of_exactly_its_stages(package, file, old, new, stages):
    assert changed_stages(package, file, old, new) == stages


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_every_python_takes_the_same_fingerprints(version, tmp_path):
    python = next(iter(pythons(version)), None)
    if python is None:
        pytest.skip(f"no Python {version} on this machine to compare fingerprints with")
    program = (
        "import importlib.util as u, json, sys; s = u.spec_from_file_location('code', sys.argv[1]); "
        "k = u.module_from_spec(s); s.loader.exec_module(k); print(json.dumps([k.fingerprint(x) for x in sys.argv[2:]]))"
    )
    command = [python, "-c", program, str(SOURCE / "store" / "code.py"), *STAGES]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    own = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, check=True).stdout
    assert printed == own


def pythons(version: str) -> list[str]:
    """Interpreters of a version: on the PATH, or among pyenv's."""
    paths = [shutil.which(f"python{version}")]
    paths += [str(path) for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]
    return [path for path in paths if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0]
