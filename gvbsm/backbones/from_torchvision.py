"""torchvision's classification networks, and its pretrained weights."""

import hashlib
import re
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn


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


def pretrained(model: str, weights: str) -> dict[str, Tensor]:
    """The state dict of published weights, from torch's hub folder or downloaded to it; nothing in it is executed.

    Raises:
        ValueError: if the model has no such weights, or the file is not there and cannot be downloaded, or is damaged.
    """
    from torchvision import models

    known = {one.name: one for one in models.get_model_weights(model)}  # without DEFAULT, which moves with torchvision
    if weights not in known:
        raise ValueError(f"weights {weights!r} of torchvision:{model}: unknown; choose from {', '.join(known)}")
    url = known[weights].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    try:
        state = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (URLError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"weights {weights}: expected {file}, which could not be had: {reason}; put the file from {url} there"
        ) from None
    except Exception as error:
        reason = type(error).__name__
        raise ValueError(
            f"weights {weights}: {file}: damaged ({reason}); delete it, or put the file from {url} there"
        ) from None
    expected = re.search(r"-([0-9a-f]{8,})\.", file.name)
    if expected and not _sha256(file).startswith(expected[1]):
        raise ValueError(f"weights {weights}: {file}: expected SHA-256 {expected[1]}..., got another; delete it and run again")
    return dict(state)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
