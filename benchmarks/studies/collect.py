"""What a study on a borrowed machine has made, as a few archives, each of which can be read alone: `collect.py RESULTS FOLDER`.

Eight files come back from such a machine, of 16 MiB each and 64 MiB together. So what is worth most is first: accuracies,
tables and receipts, then other files, then tensors, each kind from the smallest on. What does not fit is left out, and counted.
"""

from __future__ import annotations

import contextlib
import gzip
import sys
import tarfile
from pathlib import Path

MOST, EACH, TOGETHER = 5, 15 * 10**6, 55 * 10**6  # archives (logs come back too), the bytes of one and of all
TENSORS = ("statistics", "recover", "relabel")  # stages; teachers are made anew
END = gzip.compress(bytes(2 * tarfile.BLOCKSIZE))


def main(results: Path, folder: Path) -> None:
    """Write `results.1.tar.gz`, ... into a folder, each at once, in place of earlier ones."""
    groups, left_out = packed(files_of(results))
    for number, group in enumerate(groups, 1):
        scratch = folder / f".results.{number}.tar.gz"
        scratch.write_bytes(group + END)
        scratch.replace(folder / f"results.{number}.tar.gz")
    for number in range(len(groups) + 1, MOST + 1):
        (folder / f"results.{number}.tar.gz").unlink(missing_ok=True)
    if left_out:
        print(f"left out: {len(left_out)} files, from {left_out[0]} on")


def files_of(results: Path) -> list[Path]:
    """In the order of worth. What lies under a name with a dot, such as checkpoints, stays."""
    ranked = []
    for path in results.rglob("*"):
        is_tensor = path.suffix == ".safetensors"
        if any(part.startswith(".") for part in path.relative_to(results).parts) or (
            is_tensor and path.parent.name not in TENSORS
        ):
            continue
        with contextlib.suppress(FileNotFoundError):  # jobs write meanwhile
            if path.is_file():
                ranked.append((2 if is_tensor else path.suffix not in (".json", ".csv"), path.stat().st_size, path))
    return [path for *_, path in sorted(ranked)]


def packed(files: list[Path]) -> tuple[list[bytearray], list[Path]]:
    """Archives of files in this order, and the files that do not fit."""
    groups: list[bytearray] = []
    left_out = []
    for path in files:
        member = member_of(path)
        if member == b"":
            continue
        fits = groups and len(groups[-1]) + len(member or b"") + len(END) <= EACH
        whole = sum(map(len, groups)) + len(member or b"") + MOST * len(END)
        if member is None or whole > TOGETHER or not (fits or len(groups) < MOST):
            left_out.append(path)
        elif fits:
            groups[-1] += member
        else:
            groups.append(bytearray(member))
    return groups, left_out


def member_of(path: Path) -> bytes | None:
    """A file as a part of a compressed archive: such parts may follow one another. None if it is too large, empty if it is
    gone."""
    is_tensor = path.suffix == ".safetensors"  # which hardly becomes smaller
    try:
        status = path.stat()
        if status.st_size > (1 if is_tensor else 10) * EACH:
            return None
        data = path.read_bytes()
    except FileNotFoundError:
        return b""
    entry = tarfile.TarInfo(path.as_posix())
    entry.size, entry.mtime = len(data), int(status.st_mtime)
    padding = bytes(-len(data) % tarfile.BLOCKSIZE)
    member = gzip.compress(entry.tobuf(tarfile.GNU_FORMAT) + data + padding, 1 if is_tensor else 6)
    return member if len(member) + len(END) <= EACH else None


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
