"""Teachers that need no training: published or local weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gvbsm.backbones import from_torchvision
from gvbsm.backbones.weights import load_by_order
from gvbsm.config.shapes import NetworkShape
from gvbsm.data.torch_files import read_state
from gvbsm.errors import UserError
from gvbsm.training.networks import build

_WORDNET_ID = re.compile(r"n\d{8}")


def load_pretrained(
    network: NetworkShape, weights: str, data_root: Path, device: torch.device, classes: Sequence[str]
) -> nn.Module:
    """The network of a spec's `network` entry in eval mode, with weights from a file or, by name, from torchvision.

    A name with a suffix is a file, absolute or below `data_root`. The classes of torchvision's weights are ImageNet's, in the
    order of their WordNet ids, so `classes` must be the same.

    Raises:
        UserError: if the weights cannot be read or downloaded, or belong to another network.
    """
    model = build(network, 0, device)
    library, _, name = network.name.partition(":")
    try:
        if Path(weights).suffix:
            state = read_state(data_root / weights)
            if weights.endswith(".safetensors"):
                _check_names(weights, model, state)
        elif library == "torchvision":
            _check_imagenet(weights, classes)
            state = read_state(from_torchvision.published_weights(name, weights))
        else:
            raise ValueError(
                f"weights: expected a .pth, .pt or .safetensors file, got {weights!r}; only torchvision's have names"
            )
        load_by_order(model, state)
    except (ValueError, UserError) as error:
        raise UserError(f"network {network.name}: {error}") from None
    return model.eval()


def _check_names(weights: str, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The order of tensors in a safetensors file is not the network's, so the names must be."""
    names = model.state_dict().keys()
    other = next((name for name in state if name.removeprefix("module.") not in names), None)
    if other is not None:
        raise ValueError(f"weights {weights}: expected the network's own names, got {other!r}; rename, or save a .pth in order")


def _check_imagenet(weights: str, classes: Sequence[str]) -> None:
    mismatch = next((name for name in classes if not _WORDNET_ID.fullmatch(name)), None)
    if len(classes) != 1000 or mismatch is not None:
        got = f"a class {mismatch!r}" if mismatch else f"{len(classes)} classes"
        raise ValueError(
            f"weights {weights}: expected ImageNet's 1000 classes (n01440764, ...), got {got}; train it, or name a file"
        )
