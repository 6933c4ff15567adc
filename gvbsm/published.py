"""acc.json: what publish writes of the settings of a run, and a published run read back."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gvbsm.errors import UserError
from gvbsm.keys import key

KINDS = {  # of what students are trained on, in the order of tables: images and labels
    "distilled": ("distilled", "soft"),
    "random_soft": ("random real", "soft"),
    "random_hard": ("random real", "hard"),
    "distilled_hard": ("distilled", "hard"),
}
# Of a spec: where it comes from, and which part of the whole it is.
_NOT_SETTINGS = ("stage", "inputs", "code", "batches", "snapshots", "random", "views", "online")
_PARTS = {"dataset": str, "ipc": int, "students": dict, "baselines": dict, "soft_labels": dict, "cost": dict, "teachers": dict}

_PICTURES = ("curves", "evolution", "features", "classes")  # in a run's folder pictures/, as .png, .svg or both


def kind_name(kind: str) -> str:
    """One of `KINDS` in words: distilled, soft labels."""
    images, labels = KINDS[kind]
    return f"{images}, {labels} labels"


@dataclass(frozen=True)
class Published:
    """The acc.json of a run."""

    file: Path
    accuracies: dict[str, Any]  # what it holds

    @property
    def folder(self) -> Path:
        """Where it lies, with what else is published of the run."""
        return self.file.parent

    @property
    def name(self) -> str:
        """Data set and the folder's name, as in digits/ipc10."""
        return f"{self.accuracies['dataset']}/{Path(os.path.abspath(self.folder)).name}"  # noqa: PTH100 (a link keeps its name)

    @property
    def target(self) -> str:
        """What Snakemake is asked for to make it."""
        recipe = f"-{self.accuracies['recipe']}" if self.accuracies["recipe"] else ""
        return f"results/{self.accuracies['dataset']}/ipc{self.accuracies['ipc']}{recipe}/acc.json"

    @property
    def by_kind(self) -> dict[str, dict[str, Any]]:
        """Students by the images and labels that they were trained on, the distilled ones first."""
        return {"distilled": self.accuracies["students"], **self.accuracies["baselines"]}

    @property
    def spec(self) -> dict[str, Any]:
        """What it was published from."""
        spec: dict[str, Any] = self.accuracies["provenance"]["spec"]
        return spec


def read_published(run: Path) -> Published:
    """The run of a folder `results/<dataset>/<run>`, or of the acc.json in it; nothing of the store is looked at.

    Raises:
        UserError: if it is not published, or its acc.json is not what publish writes.
    """
    file = run if run.suffix == ".json" else run / "acc.json"
    try:
        accuracies = json.loads(file.read_text(encoding="utf-8"))
        if key(accuracies["provenance"]["spec"]) != accuracies["key"]:
            raise ValueError("of another key")
        if not all(isinstance(accuracies[name], kind) for name, kind in _PARTS.items()):
            raise TypeError("of another form")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}; make it with: snakemake --cores all {file}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: expected what publish writes, got something else; make it again") from None
    return Published(file, accuracies)


def further_pictures(folder: Path) -> dict[str, list[Path]]:
    """The files of a run's pictures beyond images.png, by name; of those that are there."""
    files = {name: [folder / "pictures" / f"{name}{suffix}" for suffix in (".png", ".svg")] for name in _PICTURES}
    there = {name: [file for file in of_one if file.is_file()] for name, of_one in files.items()}
    return {name: of_one for name, of_one in there.items() if of_one}


def settings_of(specs: dict[str, dict[str, Any]], inputs: dict[str, Any]) -> dict[str, Any]:
    """What every stage was told, by teacher and student where there are several; not what follows from other stages.

    `specs` are those of a run's artifacts by path, `inputs` publish's, which say whose they are.
    """
    owner = {path: label for label, path in inputs["teachers"].items()}
    owner |= {sets["distilled"]: student for student, sets in inputs["students"].items()}
    found: dict[str, Any] = {}
    for path, spec in specs.items():
        stage = spec["stage"]
        told = {name: value for name, value in spec.items() if name not in _NOT_SETTINGS}
        told |= told.pop("settings", {})
        if stage == "recover" and spec.get("views"):
            told["views"] = "relabel"  # whose settings say the rest
        if stage == "evaluate" and spec.get("online") and path in owner:  # no relabel tells of the views
            found["relabel"] = {**spec["views"], **spec["online"], "online": True}
        if spec.get("random"):
            found["baselines"] = {"random_seed": spec["random"]["seed"]}
        if stage in ("squeeze", "evaluate") and path in owner:
            found.setdefault(stage, {})[owner[path]] = told
        elif stage not in ("squeeze", "evaluate"):
            epochs = [0, 0] if stage not in ("relabel", "convert") else told.pop("epochs")
            found.setdefault(stage, told)  # all shards have the same, but for the epochs that are theirs
            if epochs[1]:
                found[stage]["epochs"] = max(found[stage].get("epochs", 0), epochs[1])
    return found


def flat(value: Any, at: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    if not isinstance(value, dict):
        return {at: value}
    return {name: one for part, item in value.items() for name, one in flat(item, f"{at}.{part}" if at else part).items()}
