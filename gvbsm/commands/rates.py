"""Recorded speeds of jobs, in rates.csv, for estimates on a machine on which no such job has run.

A line is a speed that a page of the project records (`source`, relative to its root): images per second of a job of a stage
with these networks, at this image size and precision, on this device. For prepare, `networks` is the kind of its source.
"""

from __future__ import annotations

import contextlib
import csv
import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gvbsm.runtime.cpu import cpu_name

TABLE = Path(__file__).with_name("rates.csv")


@dataclass(frozen=True)
class Rate:
    """A recorded speed."""

    stage: str
    networks: tuple[str, ...]  # as `network_text` writes them, sorted
    image_size: int | None  # px; None for prepare
    precision: str | None
    device: str  # as receipts name it
    conditions: str
    images_per_second: float
    source: str

    @property
    def where(self) -> str:
        """The device and the conditions."""
        return f"{self.device}, {self.conditions}"


@cache
def recorded_rates() -> list[Rate]:
    """The table."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [_rate(**line) for line in csv.DictReader(file)]


def _rate(networks: str, image_size: str, precision: str, images_per_second: str, **others: str) -> Rate:
    return Rate(
        networks=tuple(sorted(networks.split())),
        image_size=int(image_size) if image_size else None,
        precision=precision or None,
        images_per_second=float(images_per_second),
        **others,
    )


def network_text(name: str, options: dict[str, bool | int | float | str]) -> str:
    """A network as the table writes it, such as "wrn16_2(depth=10,widen=1)"."""
    return name + (f"({','.join(f'{key}={options[key]}' for key in sorted(options))})" if options else "")


def nearest(rates: list[Rate], precision: str | None) -> Rate | None:
    """The rate on the device most like this machine's, if possible of the same precision.

    None for a CPU if all are from GPUs: the hours would be far too few. Hours at a CPU's rate are only too many for a GPU.
    """
    here = this_device()
    usable = [rate for rate in rates if _type(rate.device) in ("cpu", _type(here))]

    def likeness(rate: Rate) -> tuple[bool, bool, bool]:
        return _type(rate.device) == _type(here), rate.device == here, rate.precision == precision

    return max(usable, key=likeness, default=None)  # of equally good ones the first


def _type(device: str) -> str:
    return device.partition(":")[0]


@cache
def this_device() -> str:
    """The device that jobs would use here, as receipts name it, found without torch, which takes seconds to load."""
    from gvbsm.runtime.lease import devices

    asked = os.environ.get("GVBSM_DEVICE", "auto").partition(":")[0]
    gpus = devices() if asked in ("auto", "cuda") else []
    if gpus:
        return f"cuda: {_gpu_model(gpus[0])}"
    is_mac = (platform.system(), platform.machine()) == ("Darwin", "arm64")
    return f"{'mps' if is_mac and asked in ('auto', 'mps') else 'cpu'}: {cpu_name()}"


def _gpu_model(name: str) -> str:
    """The model of a CUDA device by its number or UUID; "unknown" if the driver does not say."""
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        find = pynvml.nvmlDeviceGetHandleByIndex if name.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID
        return str(pynvml.nvmlDeviceGetName(find(int(name) if name.isdecimal() else name)))
    return "unknown"
