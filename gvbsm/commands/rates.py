"""Recorded speeds of jobs, in rates.csv, for estimates on a machine on which no such job has run.

A line is a speed that a page of the project records (`source`, relative to its root): images per second of a job of a stage
with these networks, at this image size and precision, on this device. For prepare, `networks` is the kind of its source.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import math
import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gvbsm.pipeline.stage import Stage
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


@dataclass(frozen=True)
class JobRate:
    """The speed of a job, by one recorded rate of such jobs or by rates of its networks or of those nearest to them."""

    images_per_second: float
    of: dict[str, Rate]  # by the network for which each was taken; "": a rate of such a job itself


def job_rate(stage: Stage, networks: tuple[str, ...], size: int | None, precision: str | None) -> JobRate | None:
    """The rate of a job with these networks, sorted, at this image size in px (None for prepare): the first that there is of

    - a rate of such a job on this device,
    - one made of the rates of its networks, or of those nearest to them, on this device,
    - either on a device of this type, such as another GPU,
    - a rate of such a job on a CPU. Hours at a CPU's rate are only too many for a GPU; a GPU's for a CPU would be far too few.
    """
    here, rates = this_device(), [rate for rate in recorded_rates() if rate.stage == stage.name]
    own, alike = [rate for rate in rates if rate.device == here], [rate for rate in rates if _type(rate.device) == _type(here)]
    for nearby in (own, alike):
        found = _of_such_a_job(nearby, networks, size, precision) or _of_networks(nearby, networks, size, precision, stage)
        if found:
            return found
    return _of_such_a_job([rate for rate in rates if _type(rate.device) == "cpu"], networks, size, precision)


def _of_such_a_job(rates: list[Rate], networks: tuple[str, ...], size: int | None, precision: str | None) -> JobRate | None:
    rates = [rate for rate in rates if (rate.networks, rate.image_size) == (networks, size)]
    rate = max(rates, key=lambda rate: rate.precision == precision, default=None)  # of equally good ones the first
    return JobRate(rate.images_per_second, {"": rate}) if rate else None


def _of_networks(
    rates: list[Rate], networks: tuple[str, ...], size: int | None, precision: str | None, stage: Stage
) -> JobRate | None:
    """Seconds of the networks, averaged where they take turns, else summed, since every image passes through each."""
    if not rates or not networks or size is None:
        return None
    parts = {network: max(rates, key=lambda rate: _likeness(rate, network, size, precision)) for network in networks}
    seconds = [_seconds(parts[network], size, stage.in_turn) for network in networks]
    total = sum(seconds) / (len(seconds) if stage.in_turn else 1)
    return JobRate(1 / total, parts)


def _seconds(rate: Rate, size: int, in_turn: bool) -> float:
    """Seconds per image and network at this size in px: as the pixels, but not fewer than recorded for smaller images."""
    assert rate.image_size is not None
    shares = 1 if in_turn else len(rate.networks)
    return max(1, size / rate.image_size) ** 2 / rate.images_per_second / shares


def _likeness(rate: Rate, network: str, size: int, precision: str | None) -> tuple[float, float, int, bool]:
    """How much a rate is one of this network at this size: by the size, then the name, then the number of other networks."""
    assert rate.image_size is not None
    names = 2 if network in rate.networks else max(_alike(network, other) for other in rate.networks)
    return -abs(math.log(size / rate.image_size)), names, -len(rate.networks), rate.precision == precision


def _alike(network: str, other: str) -> float:
    """Likeness of two networks' names, from 0 to 1 for one of another width or library."""
    one, two = (name.partition("(")[0].rpartition(":")[2] for name in (network, other))
    return difflib.SequenceMatcher(None, one, two).ratio()


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
