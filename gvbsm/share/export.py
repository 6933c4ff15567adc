"""A published run as a folder for others: lossless images, soft labels, class names and a card, for three libraries."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from gvbsm.data.image_set import ImageSet, load_image_set
from gvbsm.errors import UserError
from gvbsm.pipeline.prepare import PrepareSpec
from gvbsm.runtime.progress import Progress
from gvbsm.share.card import card
from gvbsm.share.folder import (
    BATCH,
    CLASSES,
    FORMAT,
    MANIFEST,
    SHARD,
    Digest,
    ExportedClass,
    LabelFile,
    Manifest,
    list_classes,
)
from gvbsm.share.licences import source_of
from gvbsm.share.run import PublishedRun, read_run
from gvbsm.store.spec import Json

_PROVENANCE = ("git", "packages", "python", "machine")


def export(run: Path, form: str, out: Path, licence: str | None = None) -> str:
    """Write the run (its folder, or the acc.json in it) to the folder `out`, which appears when it is whole; a line about it.

    `form` is one of `gvbsm.share.forms.FORMS`. `licence`, in words, stands for the source's terms that are not known here.

    Raises:
        UserError: if `out` has anything in it or cannot be written, or the run is not published or damaged.
    """
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: expected no such folder, or an empty one, got something there; name another")
    except OSError as error:
        raise UserError(f"{out}: cannot be read: {error.strerror}; name another") from None
    published = read_run(run)
    with _appearing(out) as folder:
        data = published.spec(published.inputs.data)
        assert isinstance(data, PrepareSpec)
        classes = list_classes(published.classes, published.class_names)
        written = _write_images(published, form, classes, folder)
        manifest = _manifest(published, form, *written, _copy_labels(published, folder))
        source = source_of(data.source.kind, licence)
        _write(folder / CLASSES, [exported.model_dump() for exported in classes])
        (folder / "README.md").write_text(card(published, manifest, classes, source), encoding="utf-8")
        _write(folder / MANIFEST, manifest.model_dump())
    labels = sum((out / labels.file).stat().st_size for labels in manifest.labels)
    with_labels = f"{labels:,} bytes of soft labels" if manifest.labels else "no soft labels, since none were stored"
    return (
        f"{out}: {manifest.images:,} images in {len(classes)} classes, {with_labels}; read them by gvbsm.load({str(out)!r})\n"
    )


@contextlib.contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` when the block ends well: what a killed export leaves is never taken for one."""
    final = out.resolve()  # ".", say, has no name
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(final)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{out}: cannot be written: {reason}; free space, or name a folder that can be made") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _manifest(run: PublishedRun, form: str, shape: torch.Size, digest: str, labels: list[LabelFile]) -> Manifest:
    published, pixels = run.accuracies, run.pixels
    students = {name: spec.model_dump(include={"network", "settings", "seeds"}) for name, spec in run.students.items()}
    return Manifest.model_validate(
        {
            "format": FORMAT,
            "form": form,
            "dataset": published["dataset"],
            "ipc": published["ipc"],
            "recipe": published["recipe"],
            "images": shape[0],
            "image_size": shape[-1],
            "channels": shape[1],
            "images_sha256": digest,
            "mean": pixels.mean,
            "std": pixels.std,
            "labels": labels,
            "accuracies": {
                "students": published["students"],
                "baselines": published["baselines"],
                "teachers": published["teachers"],
            },
            "training": students,
            "provenance": {"key": published["key"], **{name: published["provenance"].get(name) for name in _PROVENANCE}},
        }
    )


def _copy_labels(run: PublishedRun, folder: Path) -> list[LabelFile]:
    """Copy the files of soft labels; their names there and hashes."""
    copied = []
    for path in run.inputs.labels:
        receipt = run.reader.receipt(path)
        file = f"labels/labels-{receipt['spec']['epochs'][0]:05d}.safetensors"
        (folder / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(run.reader.store / path, folder / file)
        copied.append(LabelFile(file=file, sha256=receipt["sha256"]))
    return copied


def _write_images(run: PublishedRun, form: str, classes: list[ExportedClass], folder: Path) -> tuple[torch.Size, str]:
    """Write all images by class and number; their shape (N,C,S,S), and the digest by which they are known again."""
    images, digest = load_image_set(run.reader, run.inputs.images), Digest()
    if form == "webdataset":
        _write_archives(_encoded(images, digest), folder)
    else:
        rows = _write_folders(_encoded(images, digest), classes, folder / "train")
        if form == "huggingface":
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "train" / "metadata.jsonl").write_text(lines, encoding="utf-8")
    return images.shape, digest.hex()


def _encoded(images: ImageSet, digest: Digest) -> Iterator[tuple[int, bytes]]:
    """Label and PNG of every image, which `digest` has taken in by then."""
    batches = torch.arange(images.shape[0]).split(BATCH)
    progress = Progress("export", len(batches))
    with ThreadPoolExecutor() as pool:
        for index_B in batches:
            images_BCHW, labels_B = images[index_B], images.labels[index_B]
            digest.add(images_BCHW, labels_B)
            yield from zip(labels_B.tolist(), pool.map(_png, images_BCHW), strict=True)
            progress.step()


def _png(image_CHW: Tensor) -> bytes:
    array = (image_CHW[0] if len(image_CHW) == 1 else image_CHW.permute(1, 2, 0)).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _write_folders(encoded: Iterator[tuple[int, bytes]], classes: list[ExportedClass], train: Path) -> list[Json]:
    """Write `<class>/<number>.png`; a row for each: file and label."""
    counts, rows = [0] * len(classes), []
    for label, content in encoded:
        name = f"{classes[label].folder}/{counts[label]:05d}.png"
        (train / name).parent.mkdir(parents=True, exist_ok=True)
        (train / name).write_bytes(content)
        counts[label] += 1
        rows.append({"file_name": name, "label": label})
    return rows


def _write_archives(encoded: Iterator[tuple[int, bytes]], folder: Path) -> None:
    """Write `train-<number>.tar` of at most SHARD images: of each, by its place in the set, .cls (its label) and .png."""
    numbered = enumerate(encoded)
    for shard in itertools.count():
        some = list(itertools.islice(numbered, SHARD))
        if not some:
            return
        with tarfile.open(folder / f"train-{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for place, (label, content) in some:
                for suffix, member in ((".cls", str(label).encode()), (".png", content)):
                    header = tarfile.TarInfo(f"{place:09d}{suffix}")  # no owner or timestamp: equal runs, equal archives
                    header.size = len(member)
                    archive.addfile(header, io.BytesIO(member))
