"""The state of a target's artifacts, present or stale, and the setting, input or module that made them stale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gvbsm.config.messages import as_in_a_row
from gvbsm.config.targets import Target, parse_target
from gvbsm.errors import UserError
from gvbsm.pipeline.graph import plan_run
from gvbsm.pipeline.stage import Artifact
from gvbsm.store.files import parse_json
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import KEYED, read_receipt, receipt_path
from gvbsm.store.run import ACCURACIES
from gvbsm.store.spec import Json
from gvbsm.store.working_folder import RESULTS

_SHOWN_REASONS = 4
_COMPARED = 20  # newest artifacts of the same name that are compared


def explain(target: str) -> str:
    """One line per artifact of the target, in the order of the chain, and a last line with counts.

    A stale artifact is compared with the one that the published acc.json was made from. If that had none of this name, the
    artifact is missing: it is compared with the one of this name in the store that differs least, those of the row's own runs
    first, and the line says with which. A line names the settings that differ, the inputs that are stale, and the modules
    that changed.
    """
    run = parse_target(target)
    planned = plan_run(run)
    published = _published(run.accuracies)
    lines, stale, users = [], 0, _Users(run)
    for artifact in planned:
        is_publish = artifact.stage == "publish"
        before = _published_spec(published) if is_publish else _own_spec(artifact, published)
        damage = None if is_publish else _damage(STORE / artifact.path)
        if published.get("key") == artifact.key if is_publish else damage == "":
            lines.append(_line("present", artifact))
            continue
        stale += 1
        lines.append(_line("damaged" if damage else "missing" if before is None else "stale", artifact))
        if before is None and not is_publish and not damage:
            reason = _unlike_nearest(artifact, users)
        else:
            reason = damage or _reasons(before, artifact.spec.json_object)
        lines.append(" " * 9 + reason)
    return "\n".join([*lines, f"{len(planned) - stale} present, {stale} stale, damaged or missing"]) + "\n"


def _line(state: str, artifact: Artifact) -> str:
    return f"{state:<7}  {artifact.stage:<10}  {artifact.name}-{artifact.key}"


def _damage(artifact: Path) -> str | None:
    """The damage of an artifact, "" if there is none; None if neither the artifact nor its receipt exists.

    Only its size is compared with the receipt; stages compare the content when they read it.
    """
    present = [file.is_file() for file in (artifact, receipt_path(artifact))]
    if not any(present):
        return None
    if not all(present):
        return f"its {'receipt' if present[0] else 'file'} is missing; when it is needed, both are made again"
    try:
        expected = read_receipt(artifact)["bytes"]
    except UserError as error:
        return str(error)
    size = artifact.stat().st_size
    return "" if size == expected else f"{artifact} has {size} bytes, its receipt says {expected}; delete it"


def _published(target: Path) -> Json:
    """The published acc.json, or {} if there is none that says what it was made from."""
    try:
        published = parse_json(target.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    provenance = published.get("provenance") if isinstance(published, dict) else None
    parts = [provenance.get(part) for part in ("spec", "artifacts")] if isinstance(provenance, dict) else [None]
    return published if all(isinstance(part, dict) for part in parts) else {}


def _published_spec(published: Json) -> Json | None:
    return published.get("provenance", {}).get("spec")


def _own_spec(artifact: Artifact, published: Json) -> Json | None:
    """The spec of the artifact of this stage and name that the run was published from."""
    start = f"{artifact.stage}/{artifact.name}-"
    used = [STORE / path for path in published.get("provenance", {}).get("artifacts", {}) if path.startswith(start)]
    return next((spec for path in used if (spec := _spec_of(path.with_suffix(".json")))), None)


class _Users:
    """The published runs that artifacts were made for, those of one row first; read when first asked for."""

    def __init__(self, run: Target) -> None:
        self._row = run.dataset
        self._runs: dict[str, set[str]] | None = None  # by name the artifacts that it was made from

    def of(self, path: str) -> list[str]:
        """The runs that read an artifact, by its path in the store, as <row>/<run>."""
        if self._runs is None:
            files = sorted(Path(RESULTS).glob(f"[!.]*/*/{ACCURACIES}"), key=lambda file: file.parts[1] != self._row)
            self._runs = {
                "/".join(file.parts[1:3]): {*_published(file).get("provenance", {}).get("artifacts", ())} for file in files
            }
        return [name for name, paths in self._runs.items() if path in paths]

    def in_row(self, path: str) -> bool:
        """Whether a run of the row read it."""
        return any(name.startswith(f"{self._row}/") for name in self.of(path))


def _unlike_nearest(artifact: Artifact, users: _Users) -> str:
    """That an artifact was never made for this run, and in what it differs from the nearest one of the same name."""
    receipts = sorted((STORE / artifact.stage).glob(f"{artifact.name}-*.json"), key=lambda path: path.stat().st_mtime)
    nearest: tuple[bool, int, str, Json] | None = None
    for receipt in receipts[: -_COMPARED - 1 : -1]:
        if (spec := _spec_of(receipt)) and KEYED.fullmatch(receipt.stem):
            path = f"{artifact.stage}/{receipt.stem}{artifact.spec.suffix}"
            differences = len(list(_differences(spec, artifact.spec.json_object, "")))
            distance = (not users.in_row(path), differences, path, spec)
            nearest = min(nearest or distance, distance, key=lambda distance: distance[:2])  # of equal ones the newest
    if nearest is None:
        return "never made"
    _, _, path, spec = nearest
    runs = users.of(path)
    of = f" of {runs[0]}" if runs else ""
    reasons = _reasons(spec, artifact.spec.json_object).removeprefix("because ")
    return f"never made for this run; against {Path(path).stem}{of}: {reasons}"


def _spec_of(receipt: Path) -> Json | None:
    """The spec in a receipt, if it can be read."""
    try:
        spec = parse_json(receipt.read_text(encoding="utf-8"))["spec"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return spec if isinstance(spec, dict) else None


def _reasons(before: Json | None, now: Json) -> str:
    if before is None:
        return "never made"
    # Changed inputs come last: their own lines give the reason.
    reasons = sorted(_differences(before, now, ""), key=lambda text: text.startswith("input") and text.endswith("changed"))
    more = f"; and {len(reasons) - _SHOWN_REASONS} more" if len(reasons) > _SHOWN_REASONS else ""
    return "because " + "; ".join(reasons[:_SHOWN_REASONS]) + more if reasons else "deleted; nothing else changed"


def _differences(before: Any, now: Any, at: str) -> Iterator[str]:
    """The differences between two specs, one text per setting, input or module."""
    if before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(name), now.get(name), f"{at}.{name}" if at else name)
    elif at.startswith("code."):
        change = "is new" if before is None else "is no longer used" if now is None else "changed"
        yield f"module {at.removeprefix('code.')} {change}"
    elif at.startswith("inputs"):
        yield from _changed_inputs(before, now)
    else:
        yield f"setting {at.removeprefix('settings.')} changed from {as_in_a_row(before)} to {as_in_a_row(now)}"


def _changed_inputs(before: Any, now: Any) -> Iterator[str]:
    def names(paths: Any) -> dict[str, str]:
        listed = [paths] if isinstance(paths, str) else paths or []
        return {path.rpartition("-")[0]: path for path in listed}

    old, new = names(before), names(now)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            change = "added" if name not in old else "removed" if name not in new else "changed"
            yield f"input {name} {change}"
