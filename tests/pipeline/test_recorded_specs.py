"""Moving code changes no spec: those of shipped rows, without hashes of code, are as they were recorded.

A setting that is added, renamed or given another value changes them on purpose: then record them again with
`python tests/pipeline/test_recorded_specs.py`, and look at the difference.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gvbsm.config.project import load_config
from gvbsm.pipeline import graph, pictures, stage
from gvbsm.store.code import PACKAGE
from gvbsm.store.keys import canonical, key

RECORDED = Path(__file__).parents[1] / "data" / "specs"
RUNS = {
    "digits": ("digits", 10, None),
    "cifar10": ("cifar10", 10, None),
    "cifar10-edc": ("cifar10", 10, "edc"),
    "cifar10-published": ("cifar10", 10, "published"),
    "imagenet": ("imagenet", 1, None),
    "imagefolder": ("mine", 2, None),
}
MINE: dict[str, Any] = {  # a folder that stays where it is, a teacher with weights, one with a precision of its own
    "extends": "digits",
    "source": {"kind": "imagefolder", "path": "pets", "version": 2},
    "classes": 3,
    "image_size": 32,
    "resize": 40,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "storage": "files",
    "backbones": [
        "convnet",
        {"name": "timm:resnet10t", "label": "r10", "weights": "r10.pth"},
        {"name": "resnet10", "recover": {"cpu_precision": "bfloat16"}},
    ],
    "evaluate": {"baselines": ["random_soft", "random_hard", "distilled_hard"]},
}


def specs_of(dataset: str, ipc: int, recipe: str | None) -> dict[str, Any]:
    """Specs by stage and name. Of a stage with many: the first spec, and the key of all."""
    artifacts = graph.plan(dataset, ipc, recipe)
    for picture in pictures.pictures_of(dataset, recipe):
        artifacts += pictures.plan_picture(dataset, ipc, recipe, picture, load_config().pictures)
    by_stage: dict[str, dict[str, Any]] = {}
    for artifact in artifacts:
        spec = json.loads(canonical(artifact.spec.json_object))
        del spec["code"]
        by_stage.setdefault(artifact.stage, {})[artifact.name] = spec
    return dict(_shortened(by_stage))


def _shortened(by_stage: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    for name, specs in by_stage.items():
        names = list(specs)
        yield (name, specs) if len(names) <= 8 else (name, {names[0]: specs[names[0]], f"all {len(names)}": key(specs)})


@pytest.mark.parametrize("run", RUNS)
def test_specs_are_as_recorded(run, tmp_path, monkeypatch):
    use_shipped_rows(tmp_path, monkeypatch)
    recorded = json.loads((RECORDED / f"{run}.json").read_text())
    now = specs_of(*RUNS[run])
    assert now.keys() == recorded.keys()
    for name in now:
        assert now[name] == recorded[name], f"{name}: if that is meant, record it: python {Path(__file__).name}"


def use_shipped_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's rows, and `mine`; keys of inputs without hashes of code."""
    (folder / "config").mkdir()
    for name in ("config.yaml", "recipes"):
        (folder / "config" / name).symlink_to(PACKAGE.parent / "config" / name)
    (folder / "config" / "datasets").mkdir()
    for file in (PACKAGE.parent / "config" / "datasets").glob("*.yaml"):
        (folder / "config" / "datasets" / file.name).symlink_to(file)
    (folder / "config" / "datasets" / "mine.yaml").write_text(yaml.safe_dump(MINE))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(stage, "fingerprint", lambda stage, builders=(): {})


def main() -> None:
    """Record the specs as they are now."""
    import tempfile

    RECORDED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        use_shipped_rows(Path(folder), monkeypatch)
        for run, arguments in RUNS.items():
            (RECORDED / f"{run}.json").write_text(json.dumps(specs_of(*arguments), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
