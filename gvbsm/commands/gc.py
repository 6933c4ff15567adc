"""Lists the files that no target needs any more, with size and age, or deletes them.

Needed are the artifacts that a target in config.yaml plans, those that a published acc.json or a picture was made from, those
of a run or a picture that is planned and not yet finished, those that a running job makes and reads, and the inputs of all of
these. A job is detected by its lock in results/.checkpoints, a snakemake by its lock of the folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gvbsm.config.project import load_config, runs_of
from gvbsm.config.targets import Target
from gvbsm.errors import UserError
from gvbsm.pipeline.pictures import plan_target
from gvbsm.pipeline.registry import read_plan, stored
from gvbsm.store import keys
from gvbsm.store.files import parse_json
from gvbsm.store.locks import CHECKPOINTS, delete_lock, is_held, lock_file
from gvbsm.store.plans import PLANS, STORE, TARGETS, files_in, read_plan_file, target_file
from gvbsm.store.progress import SUFFIX, key_of
from gvbsm.store.receipts import read_receipt, receipt_path
from gvbsm.store.run import ACCURACIES
from gvbsm.store.spec import flat_paths
from gvbsm.store.working_folder import RESULTS, make_command

_SNAKEMAKE_LOCKS = Path(".snakemake/locks")
_NOT_AS_WRITTEN = (OSError, ValueError, KeyError, TypeError, AttributeError)  # a JSON file is missing or has another content


@dataclass
class _Needed:
    """The needed artifacts, and the obstacles to a complete list of them."""

    paths: set[str] = field(default_factory=set)  # artifacts, relative to the store
    making: list[str] = field(default_factory=list)  # keys of the artifacts that jobs make now
    unfinished: list[str] = field(default_factory=list)  # runs that are kept only because they are planned and not finished
    obstacles: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Entry:
    """Files that are listed and deleted together; a folder comes after its files."""

    title: str
    files: list[Path]
    bytes: int
    changed: float  # time of the newest file, seconds since 1970

    @staticmethod
    def of(title: str, files: list[Path]) -> _Entry:
        states = []
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # a job that has just ended may have deleted it
                states.append((file.is_dir(), file.lstat()))
        size = sum(state.st_size for is_folder, state in states if not is_folder)
        return _Entry(title, files, size, max((state.st_mtime for _, state in states), default=time.time()))


def gc(delete: bool, unfinished: bool) -> Iterator[str]:
    """One line per entry that nothing needs, sorted, and a last line with the total; `delete` deletes the entries after all
    are listed, and `unfinished` adds those of runs that are planned and not finished.

    Raises:
        UserError: if a configured target is wrong, a file cannot be deleted, or, with `delete`, the needed artifacts are not
            all known: a snakemake runs here, an acc.json or a target's plan cannot be read, or a job runs without a plan file.
    """
    needed = _needed(unfinished)
    if delete and needed.obstacles:
        raise UserError(f"gc: nothing deleted: {needed.obstacles[0]}")
    now = time.time()
    entries = sorted(_unneeded(needed), key=lambda entry: entry.title)
    for entry in entries:
        yield f"{entry.bytes:>15,} bytes  {max(now - entry.changed, 0) / 86400:>7.1f} days  {entry.title}"
    for run in needed.unfinished:
        yield f"note: what {run} needs is kept, since it is planned and not finished; --unfinished lists it too"
    yield from (f"note: --delete refuses: {obstacle}" for obstacle in needed.obstacles)
    total = f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}, {sum(entry.bytes for entry in entries):,} bytes"
    if delete:
        for entry in entries:
            _delete(entry)
        yield f"{total} deleted"
    else:
        command = "gvbsm gc --delete" + (" --unfinished" if unfinished else "")
        yield f"{total} that nothing needs" + (f"; delete them with: {command}" if entries else "")


def _needed(without_unfinished: bool) -> _Needed:
    needed = _Needed()
    config = load_config()
    for configured in [*config.targets, *(f"{RESULTS}/{name}/compare.csv" for name in config.comparisons or {})]:
        for target in runs_of(config, configured):
            needed.paths.update(artifact.path for artifact in plan_target(target, config.pictures))
    if files_in(_SNAKEMAKE_LOCKS):  # it may make artifacts of an unlisted target
        remedy = "wait for its end, or, if it is dead: snakemake --unlock"
        needed.obstacles.append(f"{_SNAKEMAKE_LOCKS}: a snakemake runs in this folder; {remedy}")
    _add_published(needed)
    if not without_unfinished:
        _add_unfinished(needed)
    _add_running(needed)
    _add_inputs(needed.paths)
    return needed


def _add_published(needed: _Needed) -> None:
    for file in sorted([*Path(RESULTS).glob(f"*/*/{ACCURACIES}"), *Path(RESULTS).glob("*/*/pictures/*.json")]):
        try:
            needed.paths.update(_published(file))
        except _NOT_AS_WRITTEN as error:
            remedy = f"make it again with: {make_command(file, file)}; or only delete it"
            got = f"{type(error).__name__}: {error}"
            needed.obstacles.append(f"{file}: expected what publish wrote, got {got}; {remedy}")


def _add_unfinished(needed: _Needed) -> None:
    """Add what the plans of runs and pictures need that were planned after what is published in their folder, if anything."""
    keys_needed, runs = _keys_of(needed.paths), set()
    for folder in files_in(TARGETS):
        file = target_file(folder.name)
        if not _is_key(folder.name) or not file.exists():
            continue
        try:
            _, spec = read_plan_file(file)
            if keys.key(spec) != folder.name:
                raise ValueError(f"key: expected {folder.name}, got {keys.key(spec)}")
            run = Target(spec["dataset"], spec["ipc"], spec.get("recipe")).folder
            made = run / "pictures" / f"{spec['picture']}.json" if spec["stage"] == "draw" else run / ACCURACIES
            if _is_finished(file, made):
                continue
            needed.paths.update([*flat_paths(spec["inputs"]), f"{spec['stage']}/{folder.name}"])
        except _NOT_AS_WRITTEN as error:
            remedy = "plan its target again with: snakemake -n TARGET; or delete the file, or add --unfinished"
            needed.obstacles.append(f"{file}: expected a plan, got {type(error).__name__}: {error}; {remedy}")
            continue
        if folder.name not in keys_needed:
            runs.add(str(run))
    needed.unfinished = sorted(runs)


def _is_finished(plan: Path, published: Path) -> bool:
    """Whether what a plan of publish or draw is for is `published`, by this plan or by a later one; see `date_target`."""
    if not published.exists():
        return False
    try:
        key = parse_json(published.read_text(encoding="utf-8"))["key"]
    except _NOT_AS_WRITTEN:
        key = None
    return key == plan.parent.name or plan.stat().st_mtime <= published.stat().st_mtime


def _add_running(needed: _Needed) -> None:
    locks = [file for file in files_in(CHECKPOINTS) if file.suffix == ".lock"]
    needed.making = [file.stem for file in locks if is_held(file)]
    for key in needed.making:
        try:
            artifact = read_plan(key)
            needed.paths.update([artifact.path, *artifact.spec.input_paths()])
        except UserError:
            got = "held by a job without a plan file, which would say what it reads"
            needed.obstacles.append(f"{lock_file(key)}: {got}; wait for its end")


def _published(file: Path) -> list[str]:
    """The artifacts that an acc.json or a picture was made from, and its own plan."""
    published = parse_json(file.read_text(encoding="utf-8"))
    spec, key = published["provenance"]["spec"], published["key"]
    if key != keys.key(spec):  # with a damaged path, the right artifact would count as unneeded
        raise ValueError(f"key: expected {keys.key(spec)}, got {key}")
    return [*flat_paths(spec["inputs"]), *published["provenance"]["artifacts"], f"{spec['stage']}/{key}"]


def _add_inputs(paths: set[str]) -> None:
    """Add the inputs of artifacts, and the inputs' inputs: a teacher may be needed only for its statistics."""
    queue = list(paths)
    while queue:
        new = set(_inputs(queue.pop())) - paths
        paths |= new
        queue += new


def _inputs(path: str) -> list[str]:
    try:
        return read_plan(Path(path).stem[-10:]).spec.input_paths()
    except UserError:
        try:
            return flat_paths(read_receipt(STORE / path)["spec"].get("inputs"))
        except UserError:
            return []  # missing, or damaged, which `gvbsm verify` reports


def _unneeded(needed: _Needed) -> Iterator[_Entry]:
    keys_needed = _keys_of(needed.paths) | set(needed.making)
    yield from _unneeded_artifacts(needed)
    yield from _unneeded_checkpoints(keys_needed, needed.making)
    for folder, suffix, kind in ((CHECKPOINTS, ".lock", "lock"), (PLANS, ".json", "plan")):
        named = [file for file in files_in(folder) if file.suffix == suffix and _is_key(file.stem)]
        yield from _together(folder, [file for file in named if file.stem not in keys_needed], kind)
    yield from _unneeded_progress(needed)
    yield from _unneeded_folders(TARGETS, keys_needed)


def _unneeded_artifacts(needed: _Needed) -> Iterator[_Entry]:
    for path in stored(STORE):
        if path not in needed.paths:
            # If gc stops between the two, one file remains, as after a job that stops before it writes its receipt:
            # `gvbsm verify` reports it as damaged, a job makes it again, and the next gc deletes it.
            pair = (receipt_path(STORE / path), STORE / path)
            yield _Entry.of(str(STORE / path), [file for file in pair if file.exists() or file.is_symlink()])


def _unneeded_checkpoints(keys_needed: set[str], making: list[str]) -> Iterator[_Entry]:
    """Folders of checkpoints, and temporary files outside these folders."""
    entries = list(_unneeded_folders(CHECKPOINTS, keys_needed))
    yield from entries
    listed = {file for entry in entries for file in entry.files}
    abandoned = [file for file in _abandoned(making) if file not in listed]
    yield from (_Entry.of(str(file), [*files_in(file), file] if file.is_dir() else [file]) for file in abandoned)


def _unneeded_folders(parent: Path, keys_needed: set[str]) -> Iterator[_Entry]:
    """Folders named by a key that nothing needs."""
    for folder in files_in(parent):
        if folder.is_dir() and _is_key(folder.name) and folder.name not in keys_needed:
            yield _Entry.of(str(folder), [*files_in(folder), folder])


def _unneeded_progress(needed: _Needed) -> Iterator[_Entry]:
    """Progress files of killed jobs, except those that a needed job will continue: `gvbsm status` shows them."""
    to_do = _keys_of(path for path in needed.paths if not (STORE / path).exists()) | set(needed.making)
    files = [file for file in files_in(CHECKPOINTS) if file.name.endswith(SUFFIX) and _is_key(key_of(file))]
    yield from _together(CHECKPOINTS, [file for file in files if key_of(file) not in to_do], "progress")


def _together(folder: Path, files: list[Path], kind: str) -> Iterator[_Entry]:
    """One entry for all these small files, if there are any."""
    if files:
        yield _Entry.of(f"{folder}: {len(files)} {kind} {'file' if len(files) == 1 else 'files'}", files)


def _abandoned(making: list[str]) -> Iterator[Path]:
    """Temporary files and folders, named `.<file>.<process>.tmp`, of processes that no longer run.

    A job on another machine is detected only by its lock, if the file system shares locks.
    """
    for file in sorted([*Path(RESULTS).glob("*/.*.tmp"), *Path(RESULTS).glob("*/*/.*.tmp")]):
        process = re.fullmatch(r"\..+\.(\d+)\.tmp", file.name)
        being_made = any(key in file.parts or file.name.startswith(f".{key}.") or f"-{key}." in file.name for key in making)
        if process and not being_made and not _is_running(int(process[1])):
            yield file


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # a process of another user
        return True
    return True


def _keys_of(paths: Iterable[str]) -> set[str]:
    return {Path(path).stem[-10:] for path in paths}


def _is_key(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{10}", text) is not None


def _delete(entry: _Entry) -> None:
    for file in entry.files:
        try:
            if file.suffix == ".lock":
                delete_lock(file)
            elif file.is_dir():
                file.rmdir()
            else:
                file.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{file}: cannot be deleted: {error.strerror}; make its folder writable") from None
