"""Teachers that need no training: published or local weights, and whether they fit the data set."""

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
from gvbsm.training.networks import Accuracy, build

_NEAR_CHANCE = 0.1  # of the way from chance to all images right
_REORDERED = 1 / 3  # of the errors, which another order of the classes must remove; weak teachers gain less by chance
_ENOUGH = 10  # test images of a class, below which another order may gain by chance
_NAMED = 5  # classes in a message
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


def check_result(weights: str, result: Accuracy, labels_N: Tensor, classes: Sequence[str], trusted: bool) -> None:
    """Refuse weights of which the accuracy on the test images says that they are not for this data set.

    A network that was trained on the same classes in another order is right on few images, and all that follows would be
    worthless without an error. With `trusted`, only NaN and infinite logits are refused.

    Raises:
        UserError: for logits that are not finite, an accuracy near chance, or classes in another order.
    """
    not_finite = int((result.guess_N < 0).sum())
    if not_finite:
        got = f"NaN or infinite ones for {not_finite} of {len(labels_N)} test images"
        raise UserError(f"weights {weights}: expected finite logits, got {got}; replace the file")
    if trusted:
        return
    chance = 100 * int(torch.bincount(labels_N).max()) / len(labels_N)
    order, top1 = _best_order(result.guess_N, labels_N, len(classes))
    is_near_chance = result.top1 - chance < _NEAR_CHANCE * (100 - chance)
    is_in_other_order = len(labels_N) >= _ENOUGH * len(classes) and top1 - result.top1 > _REORDERED * (100 - result.top1)
    if not (is_near_chance or is_in_other_order):
        return
    moved = [f"output {i} is {classes[label]!r}" for i, label in enumerate(order) if i != label][:_NAMED]
    hint = f" (with its outputs in another order, {top1:.1f} %: {', '.join(moved)}, ...)" if is_in_other_order else ""
    first = ", ".join(map(repr, classes[:_NAMED]))
    raise UserError(
        f"weights {weights}: expected a network of the classes in this order: {first}, ...; got one that is right on "
        f"{result.top1:.1f} % of the test images, by chance {chance:.1f} %{hint}; bring the rows of its last layer into this "
        "order, or set trust_weights: true for this backbone"
    )


def _best_order(guess_N: Tensor, labels_N: Tensor, classes: int) -> tuple[list[int], float]:
    """The label of each output that makes most test images right, and the top-1 accuracy with it in percent."""
    from scipy.optimize import linear_sum_assignment  # here, because the import takes half a second

    confusion_KK = torch.bincount(guess_N * classes + labels_N, minlength=classes**2).view(classes, classes)
    outputs, order = linear_sum_assignment(confusion_KK.numpy(), maximize=True)
    return order.tolist(), 100 * float(confusion_KK[outputs, order].sum()) / len(labels_N)


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
