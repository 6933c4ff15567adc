"""Reading soft labels, from a file that the system has in memory or not, against rendering their views."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import compare, report
from benchmarks.views import MEAN, STD, VIEWS, photographs
from gvbsm.config.shapes import PixelForm
from gvbsm.data.pixels import Pixels
from gvbsm.method.coding import Coding, decode, encode
from gvbsm.method.views import draw_views, render
from gvbsm.store.files import load_tensors, save_tensors

BATCH, LABELLED = 100, 20_000  # views of a batch, of the file
CODINGS = {"float16": Coding("float16"), "int8": Coding("int8"), "int4": Coding("int4"), "int4, top 15": Coding("int4", 15)}


def run(device: torch.device, repeats: int) -> None:
    """Batches of random views, as students read them."""
    torch.manual_seed(0)
    for size, classes in ((32, 10), (224, 1000)):
        images = photographs(BATCH, size).to(device)
        pixels = Pixels(PixelForm(image_size=size, mean=MEAN, std=STD), device)
        views = draw_views(BATCH, size, VIEWS, 0)
        positions = torch.arange(BATCH)

        def rendered(images: Tensor = images, views=views, pixels=pixels, positions=positions) -> Tensor:
            return render(images, views, positions, finish=pixels.from_levels, device=device)

        alternatives = {"view rendered": rendered, "views drawn": lambda size=size: draw_views(BATCH, size, VIEWS, 0)}
        logits = torch.randn(LABELLED, classes)
        with tempfile.TemporaryDirectory(dir=".") as folder:
            for name, coding in CODINGS.items():
                if coding.top is not None and coding.top >= classes:
                    continue
                file = Path(folder) / name
                save_tensors(file, encode(logits, coding), {})
                for state in ("cold", "warm"):
                    title = f"labels read, {name} ({_bytes_per_view(coding, classes)} B), {state}"
                    alternatives[title] = _reader(file, coding, classes, state == "cold")
            timings = compare(alternatives, repeats, device)
        report(f"views and labels, {size} px, {classes} classes", timings, "view rendered", BATCH, "views/s")


def _bytes_per_view(coding: Coding, classes: int) -> int:
    return sum(tensor.nbytes for tensor in encode(torch.zeros(1, classes), coding).values())


def _reader(file: Path, coding: Coding, classes: int, cold: bool) -> Callable[[], Tensor]:
    tensors, _ = load_tensors(file)
    generator = torch.Generator().manual_seed(0)

    def read() -> Tensor:
        nonlocal tensors
        if cold:
            del tensors  # mapped pages stay
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
            tensors, _ = load_tensors(file)
        index = torch.randint(LABELLED, (BATCH,), generator=generator)
        return decode({name: tensor[index] for name, tensor in tensors.items()}, coding, classes, "mean")

    return read
