"""Images that stay in files give what packed ones do, whoever decodes them, and changed ones are noticed."""

import contextlib
import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gvbsm.config.sources import ImageFolder
from gvbsm.config.teachers import Augment
from gvbsm.data import folders, imagefolder
from gvbsm.data.raw import Form
from gvbsm.data.splits import Split, open_split
from gvbsm.errors import UserError
from gvbsm.method.ranks import Ranks
from gvbsm.pipeline.prepare import PrepareSpec
from gvbsm.stages import prepare
from gvbsm.store.code import PACKAGE
from gvbsm.store.job import Job, Reader

CPU = torch.device("cpu")
AUGMENT = Augment(resized_crop=[0.2, 0.6], flip=True)
SPEC = {
    "stage": "prepare",
    "source": {"kind": "imagefolder", "path": "mine"},
    "classes": 2,
    "image_size": 12,
    "channels": 3,
    "resize": 14,
    "code": {},
}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 2)):
        for name in ("a", "b"):
            for i in range(count):
                file = tmp_path / "mine" / split / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)).save(file)
    return tmp_path / "mine"


def prepared(root: Path, storage: str, workers: int = 0) -> Callable[..., Split]:
    """Prepare the data set of `root`; return a function that opens a split of it."""
    store = root / "store"
    spec = PrepareSpec.model_validate(SPEC | {"storage": storage})
    prepare.run(Job(spec=spec, out=store / f"{storage}.safetensors", store=store, data_root=root))
    return opener(root, storage, workers)


def everything(split: Split) -> torch.Tensor:
    return torch.cat(list(split.whole_images(torch.arange(len(split.labels)).split(500))))


def opener(root: Path, storage: str, workers: int = 0) -> Callable[..., Split]:
    reader = Reader(store=root / "store", data_root=root, workers=workers)
    return lambda split, augment=None: open_split(reader, f"{storage}.safetensors", split, CPU, augment)


@pytest.mark.parametrize("split", ["train", "test"])
def test_files_are_what_is_packed(split, mine):
    packed, files = (prepared(mine.parent, storage)(split) for storage in ("packed", "files"))
    assert torch.equal(packed.labels, files.labels)
    assert torch.equal(everything(packed), everything(files))
    index = torch.tensor([3, 0])
    assert torch.equal(next(packed.whole_images([index])), next(files.whole_images([index])))


def test_neither_workers_nor_batches_before_change_a_crop(mine):
    prepared(mine.parent, "files")
    todo = [(torch.tensor([0, 1, 2]), 11), (torch.tensor([3, 4]), 12), (torch.tensor([0, 1, 2]), 13)]
    crops = [
        list(opener(mine.parent, "files", workers)("train", AUGMENT).augmented(batches))
        for workers, batches in ((0, todo), (2, todo), (1, todo[1:]))
    ]
    assert all(torch.equal(a, b) for a, b in zip(crops[0], crops[1], strict=True))
    assert torch.equal(crops[0][1], crops[2][0])
    assert not torch.equal(crops[0][0], crops[0][2]), "another seed, another crop"
    assert crops[0][0].shape == (3, 3, 12, 12) and crops[0][0].dtype == torch.uint8


def test_a_signal_to_all_processes_of_a_job_ends_no_worker(mine):
    """A scheduler signals every process. The job must save its state first, without an error from the loader."""
    prepared(mine.parent, "files")
    todo = [(torch.tensor([0, 1]), seed) for seed in range(12)]
    quiet, signalled = (opener(mine.parent, "files", workers)("train", AUGMENT) for workers in (0, 2))
    batches = []
    for batch in signalled.augmented(todo):
        batches.append(batch)
        if len(batches) == 2:
            workers = multiprocessing.active_children()
            assert len(workers) == 2
            for worker in workers:
                os.kill(worker.pid, signal.SIGTERM)
            time.sleep(0.2)
            assert all(worker.is_alive() for worker in workers)
    assert all(torch.equal(a, b) for a, b in zip(batches, quiet.augmented(todo), strict=True))
    for worker in workers:
        worker.join(10)
        assert not worker.is_alive(), "they end with the loader"


@pytest.mark.parametrize("storage", ["packed", "files"])
def test_a_part_of_a_batch_is_that_of_the_whole(storage, mine):
    """What processes that train together read; a part may be empty."""
    augment = AUGMENT if storage == "files" else Augment(pad=2, flip=True)
    split = prepared(mine.parent, storage)("train", augment)
    todo = [(torch.tensor([0, 1, 2]), 11), (torch.tensor([3, 4]), 12)]
    batches = list(split.augmented(todo))
    parts = [list(split.augmented(todo, Ranks(rank, 3).part)) for rank in range(3)]
    assert [len(batch) for batch in parts[0]] == [1, 0]
    for number, expected in enumerate(batches):
        assert torch.equal(torch.cat([part[number] for part in parts]), expected)


def test_crops_come_from_the_image_in_its_own_size(mine):
    """A crop of 20 to 60 % of 20 x 30 px keeps more detail than one of the 12 x 12 px square would."""
    Image.fromarray(np.indices((40, 60)).sum(0).astype(np.uint8)).save(mine / "train" / "a" / "0.png")
    split = prepared(mine.parent, "files")("train", Augment(resized_crop=[0.2, 0.6], flip=False))
    crops = torch.cat(list(split.augmented([(torch.tensor([0]), seed) for seed in range(20)]))).float()
    steps = (crops[:, 0, 0, -1] - crops[:, 0, 0, 0]).abs()
    assert steps.min() > 12 and steps.max() < 60, "px of the original across a crop"
    corners = crops[:, 0, 0, 0]
    assert corners.std() > 5, "crops move"


def add(root: Path) -> None:
    Image.new("RGB", (9, 9)).save(root / "test" / "b" / "new.png")


def remove(root: Path) -> None:
    (root / "test" / "b" / "1.png").unlink()


def resize(root: Path) -> None:
    file = root / "test" / "b" / "1.png"
    times = file.stat()
    Image.new("RGB", (9, 9)).save(file)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def touch(root: Path) -> None:
    os.utime(root / "test" / "b" / "1.png", (1, 1))


def copy(root: Path) -> None:
    """Put a copy that keeps no times in the place of a folder."""
    shutil.copytree(root, root.parent / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(root)
    (root.parent / "copy").rename(root)


def new_class(root: Path) -> None:
    (root / "test" / "c").mkdir()
    Image.new("RGB", (9, 9)).save(root / "test" / "c" / "new.png")


CHANGES = {
    "added": (add, r"mine: .*expected 14 files.*got 15 files"),
    "removed": (remove, r"mine: .*expected 14 files.*got 13 files"),
    "another class": (new_class, r"mine: .*expected 14 files.*got 15 files"),
    "another size": (resize, r"mine.*: .*expected .* bytes.*got \d+"),
}


def same_size(root: Path) -> None:
    """Other bytes, as many as before."""
    file = root / "test" / "b" / "1.png"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    touch(root)


CHANGES["other bytes of the same size"] = (same_size, r"mine.*: .*expected the same (names and content|time .*), got")


@pytest.mark.parametrize("storage", ["packed", "files"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_folder_is_noticed(change, storage, mine):
    open_part = prepared(mine.parent, storage, workers=1)
    alter, message = CHANGES[change]
    alter(mine)
    with pytest.raises(UserError, match=f"(?s){message}.*; restore it, or set source.version") as caught:
        everything(open_part("test"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("storage", ["packed", "files"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_copy_with_other_times_has_not_changed(storage, workers, mine):
    """`cp -r`."""
    before = everything(prepared(mine.parent, storage)("test"))
    copy(mine)
    assert torch.equal(everything(opener(mine.parent, storage, workers)("test")), before)


@pytest.mark.parametrize("storage", ["packed", "files"])
def test_a_copy_with_other_bytes_has_changed(storage, mine):
    open_part = prepared(mine.parent, storage)
    same_size(mine)
    copy(mine)
    with pytest.raises(UserError, match=r"expected the same (names and content|time .*), got"):
        everything(open_part("test"))


def test_one_newer_image_is_no_copy(mine):
    """Images that stay in their files were not read as a whole: an edited one might not be among those that were."""
    open_part = prepared(mine.parent, "files")
    touch(mine)
    with pytest.raises(UserError, match=r"1\.png: .*expected the same time \(cp -a keeps times\), got another"):
        everything(open_part("test"))


def test_a_copy_of_many_images_is_read_in_part(mine, monkeypatch):
    """Every size, and the start and the end of evenly spread files."""
    monkeypatch.setattr(folders, "_SAMPLE", 2)
    monkeypatch.setattr(folders, "_PART", 40)
    before = {**folders.stamp(mine), "sample": folders.sample(mine)}
    files = sorted(file for file in mine.rglob("*.png"))
    read = {files.index(file) for file in files if sampled(mine, file, before)}
    assert read == {0, 7}, "of 14"
    copy(mine)
    assert not folders.change(before, mine)


def sampled(root: Path, file: Path, before: folders.Stamp) -> bool:
    """Whether another last byte of a file is noticed in a copy."""
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    copy(root)
    noticed = folders.change(before, root)
    file.write_bytes(content)
    return bool(noticed)


def test_an_image_of_which_only_the_link_is_left_is_a_change(mine):
    """Packed data sets may be gone, but not in part: nothing could tell what else has changed."""
    open_part = prepared(mine.parent, "packed")
    remove(mine)
    (mine / "test" / "b" / "1.png").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"1\.png: changed since it was prepared: cannot be read now: No such file"):
        open_part("test")


def test_a_change_while_it_is_read_is_noticed(mine, monkeypatch):
    read = imagefolder.read

    def while_reading(*arguments):
        add(mine)
        return read(*arguments)

    monkeypatch.setattr(imagefolder, "read", while_reading)
    with pytest.raises(UserError, match="mine: changed while it was read; run the same command again"):
        prepared(mine.parent, "packed")


def test_a_folder_that_cannot_be_read_is_named(mine, monkeypatch):
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("/b"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, match=r"mine/.*/b: cannot be read: Permission denied"):
        prepared(mine.parent, "packed")


@pytest.mark.parametrize("storage", ["packed", "files"])
def test_a_folder_that_is_gone_is_missed_only_where_its_images_are_needed(storage, mine):
    open_part = prepared(mine.parent, storage)
    mine.rename(mine.parent / "elsewhere")
    if storage == "packed":
        assert len(everything(open_part("test"))) == 4
    else:
        with pytest.raises(UserError, match="got nothing there; put them back, or set GVBSM_DATA_ROOT"):
            open_part("test")


def test_an_image_that_cannot_be_read_is_named_by_a_worker(mine):
    open_part = prepared(mine.parent, "files", workers=2)
    file = mine / "train" / "b" / "3.png"
    times, size = file.stat(), file.stat().st_size
    file.write_bytes(b"\xc7" * size)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match=r"^\S*b/3\.png: expected an image, got no format that is known; replace or remove"):
        everything(open_part("train"))


def test_an_archive_cannot_stay_files(mine, tmp_path):
    shutil.make_archive(str(tmp_path / "packed"), "zip", mine)
    spec = SPEC | {"storage": "files", "source": {"kind": "imagefolder", "path": "packed.zip"}}
    with pytest.raises(UserError, match="storage: files: expected a folder, got an archive; unpack it, or set storage: packed"):
        planned = PrepareSpec.model_validate(spec)
        prepare.run(Job(spec=planned, out=tmp_path / "x.safetensors", store=tmp_path, data_root=tmp_path))


IN_WORKERS = """
import struct, sys
from pathlib import Path
import torch
from PIL import Image
from gvbsm.config.teachers import Augment
from gvbsm.data.splits import open_split
from gvbsm.errors import UserError
from gvbsm.store.job import Reader

root, end = Path(sys.argv[1]), sys.argv[2]
resize = Image.Image.resize
split = open_split(Reader(store=root / "store", data_root=root, workers=2), "files.safetensors", "train", torch.device("cpu"))
errors = ZeroDivisionError("1/0"), struct.error("x"), KeyError("JPEG"), MemoryError(), Exception("two\\nlines"), Exception()
for raised in errors:
    def failing(*_, **__):
        raise raised
    Image.Image.resize = failing
    try:
        list(split.whole_images([torch.tensor([0, 1])] * 4))
    except UserError as error:
        print(error)
Image.Image.resize = resize
batches = split.whole_images([torch.tensor([0, 1])] * 40)
next(batches)
if end == "stopped":
    raise KeyboardInterrupt
raise LookupError("of the stage, while the workers read ahead")
"""


@pytest.mark.parametrize("end", ["stopped", pytest.param("failed", marks=pytest.mark.nightly("processes"))])
def test_a_process_ends_whatever_is_raised_in_it_or_its_workers(end, mine):
    """An error that is shown with its traceback keeps the workers, which ignore SIGTERM; they must not keep the process."""
    prepared(mine.parent, "files")
    command = [sys.executable, "-c", IN_WORKERS, str(mine.parent), end]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        try:
            out, err = process.communicate(timeout=90)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    file = mine / "train" / "a" / "0.png"
    reasons = ["ZeroDivisionError: 1/0", "error: x", "KeyError: 'JPEG'", "MemoryError", "Exception: two", "Exception"]
    assert out.splitlines() == [f"{file}: expected an image, got {reason}; replace or remove the file" for reason in reasons]
    assert err.splitlines()[-1].startswith({"stopped": "KeyboardInterrupt", "failed": "LookupError: of the stage"}[end])
    assert "atexit" not in err


@pytest.mark.parametrize("count", [500, pytest.param(100_000, marks=pytest.mark.nightly("stages"))])
def test_a_list_of_many_files_takes_less_than_a_kilobyte_of_memory_for_each(count, tmp_path):
    """ImageNet has 1.28 million: about half a gigabyte."""
    for number in range(-(-count // 10_000)):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{number}.png")  # a file can have some 65,000 links
    for number in range(count):
        file = tmp_path / "mine" / ("train" if number % 10 else "test") / f"{number // 10 % 20:03d}" / f"{number:08d}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        os.link(tmp_path / f"{number // 10_000}.png", file)
    tracemalloc.start()
    raw = imagefolder.read(ImageFolder(kind="imagefolder", path="mine"), Form(8, 3, 8, "files"), tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(raw.train_images.paths) + len(raw.test_images.paths) == count
    assert peak / count < 1024


PEAK = """
import resource, sys
from pathlib import Path
from gvbsm.pipeline.prepare import PrepareSpec
from gvbsm.stages import prepare
from gvbsm.store.job import Job
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
spec = PrepareSpec.model_validate_json(sys.argv[1])
before = peak()
prepare.run(Job(spec=spec, out=Path("x.safetensors"), store=Path(), data_root=Path()))
print((peak() - before) / Path("x.safetensors").stat().st_size)
"""


@pytest.mark.nightly("stages")
def test_packed_images_are_in_memory_once(tmp_path, monkeypatch):
    """Ten classes of ImageNet at 224 px are 2 GB. As the stage does it, which also chooses how memory is kept."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40)).save(tmp_path / "one.png")
    for number in range(3000):
        file = tmp_path / "mine" / ("train" if number % 10 else "test") / f"{number // 10 % 20:03d}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        os.link(tmp_path / "one.png", file)
    spec = {"stage": "prepare", "source": {"kind": "imagefolder", "path": "mine"}, "classes": 20, "code": {}}
    spec |= Form(224, 3, 224, "packed").as_json()
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, json.dumps(spec)], env=environment, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1.6
