"""torchvision's classification networks, and its pretrained weights."""

import hashlib
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import nn


def build(*, classes: int, image_size: int, channels: int = 3, model: str, **options: Any) -> nn.Module:
    """`torchvision:<model>` with fresh weights. Any image_size that the network can reduce.

    Raises:
        ValueError: for an unknown model, or images that are not RGB.
        TypeError: for an option that the model does not have.
    """
    from torchvision import models

    if channels != 3:
        raise ValueError(f"torchvision:{model}: expected 3 channels, got {channels}; use another network for grey images")
    if model.startswith("vit_"):
        options = {"image_size": image_size} | options
    if model in ("googlenet", "inception_v3"):  # no second and third output in training
        options = {"aux_logits": False, "init_weights": True} | options
    return models.get_model(model, weights=None, num_classes=classes, **options)


def published_weights(model: str, weights: str) -> Path:
    """The file of published weights, in torch's hub folder or downloaded to it.

    Its SHA-256 begins with the prefix at the end of its official name.

    Raises:
        ValueError: if the model has no such weights, or the file is a different one or cannot be downloaded.
    """
    from torchvision import models

    versions = {entry.name: entry for entry in models.get_model_weights(model)}  # without DEFAULT, which torchvision may change
    if weights not in versions:
        raise ValueError(f"weights {weights!r} of torchvision:{model}: unknown; choose from {', '.join(versions)}")
    url = versions[weights].url
    prefix = url.rpartition("-")[2].partition(".")[0]
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            torch.hub.download_url_to_file(url, str(file), prefix)
        digest = _sha256(file)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"weights {weights}: expected {file}, which could not be had: {reason}; put the file from {url} there"
        ) from None
    if len(prefix) < 8 or not digest.startswith(prefix):
        raise ValueError(
            f"weights {weights}: {file}: expected SHA-256 {prefix}..., got {digest[:8]}...; delete it, or put the file from "
            f"{url} there"
        )
    return file


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
