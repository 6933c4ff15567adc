"""Files of published weights, in torch's hub folder or downloaded to it, and the images that they were trained on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import torch


class Published(NamedTuple):
    """Published weights."""

    name: str  # as their library calls them
    file: Callable[[], Path]  # finds or downloads it; raises ValueError if it cannot be had
    mean: Sequence[float]  # per channel, of pixel values in 0..1
    std: Sequence[float]
    image_size: int  # px, of the test images
    interpolation: str  # by which these were resized
    crop: float  # share of the shorter side that was cut out

    def difference(self, mean: Sequence[float], std: Sequence[float], tolerance: float = 0.01) -> str:
        """How a normalisation differs from the one that the network was trained with, in words; "" if it does not."""
        pairs = [*zip(self.mean, mean, strict=False), *zip(self.std, std, strict=False)]
        if len(self.mean) == len(mean) and all(abs(theirs - ours) <= tolerance for theirs, ours in pairs):
            return ""
        expected, got = (f"mean {_listed(a)} and std {_listed(b)}" for a, b in ((self.mean, self.std), (mean, std)))
        return f"expected images with {expected}, as they were trained with, got {got}"


def _listed(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"


def hub_file(name: str) -> Path:
    """Where torch keeps the file of a name that it has downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def fetch(what: str, url: str) -> Path:
    """The file of published weights whose SHA-256 begins with the digits at the end of its official name.

    Raises:
        ValueError: if the file is a different one or cannot be downloaded.
    """
    match = re.search(r"-([0-9a-f]{8,})\.\w+$", url)
    if not match:
        raise ValueError(f"{what}: expected the beginning of its SHA-256 in the name of {url}, got none; name a file of yours")
    prefix, file = match[1], hub_file(url.rpartition("/")[2])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            torch.hub.download_url_to_file(url, str(file), prefix)
        digest = _sha256(file)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = first_line(error)
        raise ValueError(f"{what}: expected {file}, which could not be had: {reason}; put the file from {url} there") from None
    if not digest.startswith(prefix):
        raise ValueError(
            f"{what}: {file}: expected SHA-256 {prefix}..., got {digest[:8]}...; delete it, or put the file from {url} there"
        )
    return file


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
