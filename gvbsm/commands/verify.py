"""Checks that every file of the store has the bytes that were written, and was made from the present inputs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tqdm import tqdm

from gvbsm.errors import UserError
from gvbsm.pipeline.registry import STORED, artifact_of, stored
from gvbsm.store import receipts
from gvbsm.store.locks import is_held, lock_file
from gvbsm.store.plans import STORE, files_in
from gvbsm.store.receipts import rebuild, receipt_path


def verify(path: Path) -> tuple[str, int]:
    """Check a store, a stage's folder in it, or one artifact with its receipt; the report and the number of damaged artifacts.

    The report has one line per damaged file, with the command that rebuilds it, then notes, then a line with counts. Notes are
    not damage: an input that was removed later (receipts still hold its hash); a temporary file, or a file that is no
    artifact; an artifact whose receipt a running job has yet to write.

    Raises:
        UserError: if the path is none of these or its folder cannot be read.
    """
    store, chosen, others = _choose(path)
    damaged: list[str] = []
    notes = [_stray(file) for file in others]
    removed: Counter[str] = Counter()  # missing input -> number of artifacts made from it
    hashes: dict[str, str | None] = {}
    sizes = {name: _size(store / name) for name in chosen}
    with tqdm(total=sum(sizes.values()), desc="verify", unit="B", unit_scale=True, leave=False, disable=None) as bar:
        for name in chosen:
            try:
                receipt = receipts.verify(store / name)
                removed.update(_removed_inputs(store, name, receipt["inputs"], hashes))
            except UserError as error:
                if _is_being_made(store, name):
                    notes.append(f"{store / name}: is being made; its receipt comes next")
                else:
                    damaged.append(str(error))
            bar.update(sizes[name])
    for name, times in sorted(removed.items()):
        artifacts_were = "artifact was" if times == 1 else "artifacts were"
        notes.append(f"{store / name}: no longer there; {times} {artifacts_were} made from it")
    lines = [*damaged, *(f"note: {note}" for note in notes)]
    count = f"{len(chosen)} artifact{'s' * (len(chosen) != 1)} verified, {len(damaged)} damaged"
    return "\n".join([*lines, count]) + "\n", len(damaged)


def _choose(path: Path) -> tuple[Path, list[str], list[Path]]:
    """The store of a path, the artifacts that the path names, relative to the store, and other files there."""
    full = path.resolve() if ".." in path.parts else path.absolute()
    shown = full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd() / STORE) else full
    if full.is_dir() and full.name in STORED:
        return _in_folders(shown.parent, [shown])
    if full.is_dir() and any((full / stage).is_dir() for stage in STORED):
        return _in_folders(shown, [shown, *(shown / stage for stage in STORED)])
    name, store = artifact_of(full), shown.parent.parent
    if name is not None and any(file.exists() for file in (store / name, receipt_path(store / name))):
        return store, [name], []
    got = "another file" if path.is_file() else "a folder without them" if path.is_dir() else "nothing there"
    raise UserError(
        f"{path}: expected the store (results/store), a stage's folder in it, an artifact or its receipt, got {got}; "
        "correct the path, or run it where results/ is"
    )


def _in_folders(store: Path, folders: list[Path]) -> tuple[Path, list[str], list[Path]]:
    """The artifacts in some folders of a store, in the order of the chain, and other files there."""
    files = [file for folder in folders for file in files_in(folder)]
    names = {name for name in map(artifact_of, files) if name}
    others = [file for file in files if artifact_of(file) is None and not (file.name in STORED and file.parent == store)]
    return store, [name for name in stored(store) if name in names], others


def _stray(file: Path) -> str:
    if file.name.startswith(".") and file.suffix == ".tmp":
        return f"{file}: a temporary file; `gvbsm gc` lists it if the process that wrote it is gone"
    return f"{file}: neither an artifact nor a receipt"


def _size(artifact: Path) -> int:
    return artifact.stat().st_size if artifact.is_file() else 0


def _is_being_made(store: Path, name: str) -> bool:
    """Whether an artifact has no receipt because the job that makes it has not written it yet."""
    artifact = store / name
    lock = lock_file(artifact.stem[-10:], store.parent / ".checkpoints")
    return artifact.is_file() and not receipt_path(artifact).exists() and is_held(lock)


def _removed_inputs(store: Path, name: str, inputs: dict[str, str], hashes: dict[str, str | None]) -> list[str]:
    """The inputs of an artifact that are no longer in the store; `hashes` caches the hashes of inputs.

    Raises:
        UserError: if an input has changed since the artifact was made.
    """
    removed = []
    for path, content in inputs.items():
        file = store / path
        if path not in hashes:
            hashes[path] = _content(file)
        if hashes[path] not in (None, content):
            remedy = f"rebuild it with: {rebuild(store / name)}"
            raise UserError(f"{store / name}: made from another {file} than the one there now; {remedy}")
        if not file.exists() and not receipt_path(file).exists():
            removed.append(path)
    return removed


def _content(artifact: Path) -> str | None:
    """The hash of an artifact by its receipt; None if it is missing or damaged, which another line reports."""
    try:
        return str(receipts.read_receipt(artifact)["sha256"])
    except UserError:
        return None
