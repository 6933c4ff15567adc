"""Images in files: checked against the list that prepare made, and decoded by worker processes."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gvbsm.data.files import colour_mode, decoding, open_image, read_file, square, to_tensor
from gvbsm.errors import UserError, first_line
from gvbsm.method.crops import RATIO
from gvbsm.store.keys import derive_seed

_workers: WeakSet[BaseProcess] = WeakSet()  # those that may still run

Item = tuple[int, int | None]  # index, seed of its crop


def changed(where: str, what: str) -> UserError:
    """The error for files that have changed since the data set was prepared."""
    return UserError(
        f"{where}: changed since it was prepared: {what}; restore it, or set source.version (2, 3, ...) in the row to make "
        "everything anew"
    )


@dataclass(frozen=True)
class ListedImages(Dataset[Tensor | str]):
    """N images in files; a map-style data set whose items are uint8 (C,S,S) or the text of an error."""

    paths: Tensor  # uint8: absolute or below data_root, separated by NUL; every worker would copy a list of strings
    ends: Tensor  # int64 (N,): the end of each path
    sizes: Tensor  # int64 (N,), bytes
    times: Tensor  # int64 (N,), ns
    data_root: Path
    image_size: int  # px
    channels: int
    resize: int  # px of the shorter side before the centre is cut out
    workers: int
    copied: bool = False  # whether the files are copies, of other times
    crop: Sequence[float] | None = None  # share of the area that a random crop keeps, instead

    def load(self, batches: Sequence[tuple[Tensor, int | None]], crop: Sequence[float] | None) -> Iterator[Tensor]:
        """uint8 (B,C,S,S) of each batch of indices, in order; the seed of a batch seeds each image's random crop.

        The result depends neither on the number of workers nor on the batches before.

        Raises:
            UserError: for a file that is missing, has another size or time than listed (copies: size), or is no image.
        """
        loader: DataLoader[Tensor | str] = DataLoader(
            replace(self, crop=crop),
            batch_sampler=(
                [(i, None if seed is None else derive_seed(seed, i)) for i in index.tolist()] for index, seed in batches
            ),
            num_workers=self.workers,
            collate_fn=self._collate,
            worker_init_fn=_start_worker,
        )
        try:
            others = {*multiprocessing.active_children()}
            batches_or_errors = iter(loader)
            _workers.update({*multiprocessing.active_children()} - others)
            for batch in batches_or_errors:
                if isinstance(batch, str):
                    raise UserError(batch)
                yield batch
        except Exception as error:  # of the loader; errors of images are texts
            # Not a clause of its own: a generator that is left open is closed when the interpreter ends, without this name.
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"decoding images: {first_line(error)}; lower --workers or GVBSM_WORKERS ({self.workers} now)"
            ) from None

    def _collate(self, images: list[Tensor | str]) -> Tensor | str:
        """A batch, which may be empty, or the first error in it."""
        errors = [image for image in images if isinstance(image, str)]
        empty = torch.empty(0, self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        return errors[0] if errors else torch.stack(images) if images else empty  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.ends)

    def path(self, index: int) -> Path:
        """The file of an image."""
        start = int(self.ends[index - 1]) + 1 if index else 0
        return self.data_root / os.fsdecode(self.paths[start : int(self.ends[index])].numpy().tobytes())

    def __getitem__(self, item: Item) -> Tensor | str:
        index, seed = item
        file = self.path(index)
        try:
            with decoding(str(file)):
                return self._decode(file, index, seed)
        except UserError as error:
            return str(error)  # the text of an exception would include the worker's traceback

    def _decode(self, file: Path, index: int, seed: int | None) -> Tensor:
        try:
            status = file.stat()
        except OSError as error:
            raise changed(str(file), f"expected an image, got none ({error.strerror})") from None
        expected, got = int(self.sizes[index]), status.st_size
        if expected != got:
            raise changed(str(file), f"expected {expected} bytes, got {got}")
        if not self.copied and status.st_mtime_ns != int(self.times[index]):
            raise changed(str(file), "expected the same time (cp -a keeps times), got another")
        image = open_image(str(file), read_file(file), colour_mode(str(file), self.channels))
        if self.crop is None or seed is None:
            return to_tensor(square(image, self.image_size, self.resize))
        from torchvision.transforms import RandomResizedCrop, functional

        torch.default_generator.manual_seed(seed)  # a worker process draws on the CPU alone
        crop = RandomResizedCrop.get_params(image, list(self.crop), list(RATIO))
        return to_tensor(functional.resized_crop(image, *crop, [self.image_size] * 2))


def _start_worker(_: int) -> None:
    """Make a worker ignore signals that the whole process group receives, such as a scheduler's SIGTERM: a dead worker is an
    error in the parent, which must save its state first. The parent ends its workers, and they end when it is gone."""
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@atexit.register  # later than multiprocessing's own function, so it is called before that
def _kill_workers() -> None:
    """Kill the workers that are left at the end of the process, such as those of a loader that an error interrupted.

    multiprocessing would send them SIGTERM, which they ignore, and wait for them for ever.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error for a worker that is killed
    for worker in {*_workers}.intersection(multiprocessing.active_children()):
        worker.kill()
