"""Teachers that need no training: published or local weights, and whether they fit the data set."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gvbsm.backbones import from_timm, from_torchvision
from gvbsm.backbones.published import Published
from gvbsm.backbones.weights import load_by_order, load_own, without_auxiliary
from gvbsm.config.shapes import NetworkShape, PixelForm
from gvbsm.data.imagenet import class_ids
from gvbsm.data.torch_files import read_state
from gvbsm.errors import UserError
from gvbsm.store.spec import Json
from gvbsm.training.networks import ALL_OUTPUTS, Accuracy, build

_NEAR_CHANCE = 0.1  # of the way from chance to all images right
_REORDERED = 1 / 3  # of the errors, which another order of the classes must remove; weak teachers gain less by chance
_ENOUGH = 10  # test images of a class, below which another order may gain by chance
_NAMED = 5  # classes in a message
_IMAGENET = 1000  # classes
_INTERPOLATION = "bilinear"  # by which this package resizes images


class Given(NamedTuple):
    """A network with given weights, in eval mode."""

    model: nn.Module
    facts: Json  # for the receipt
    whole: dict[str, Tensor]  # for the artifact: the entries of which the model has some rows, those first, then all others


def load_pretrained(
    network: NetworkShape, weights: str, data_root: Path, device: torch.device, classes: Sequence[str], pixels: PixelForm
) -> Given:
    """The network of a spec's `network` entry, with weights from a file or, by name, from torchvision or timm.

    A name with a suffix is a file, absolute or below `data_root`. The outputs of published weights are ImageNet's classes in
    the order of their WordNet ids. Of these, and of the outputs of a file with 1,000, those of `classes` are taken.

    Raises:
        UserError: if the weights cannot be read or downloaded, or belong to another network, other classes or other pixels.
    """
    model = build(network, 0, device)
    facts: Json = {}
    whole: dict[str, Tensor] = {}
    try:
        if Path(weights).suffix:
            state = without_auxiliary(model, read_state(data_root / weights))
            if weights.endswith(".safetensors"):
                _check_names(weights, model, state)
            rows = _rows(weights, classes) if _has_more_outputs(state, model) else None
        else:
            published, rows, facts = _published_for(network, weights, classes, pixels)
            state = without_auxiliary(model, read_state(published.file()))
        if rows is None or len(rows) == _IMAGENET:
            load_by_order(model, _adapted(network.name, model, state))
        else:
            facts["outputs_taken"] = rows
            whole = _load_rows(model, network, state, rows)
    except (ValueError, UserError) as error:
        raise UserError(f"network {network.name}: {error}") from None
    return Given(model.eval(), facts, whole)


def check_weights(network: NetworkShape, weights: str, data_root: Path, classes: Sequence[str], pixels: PixelForm) -> None:
    """Check what `load_pretrained` will load. Of published weights, which it may download, only the name and what they are for.

    Raises:
        UserError: as `load_pretrained` does.
    """
    if Path(weights).suffix:
        load_pretrained(network, weights, data_root, torch.device("cpu"), classes, pixels)
        return
    try:
        _published_for(network, weights, classes, pixels)
    except ValueError as error:
        raise UserError(f"network {network.name}: {error}") from None


def _published_for(
    network: NetworkShape, weights: str, classes: Sequence[str], pixels: PixelForm
) -> tuple[Published, list[int], Json]:
    """Published weights, their outputs that are the classes, and facts for the receipt."""
    published = _published(network.name, weights)
    rows = _rows(weights, classes)
    return published, rows, _check_pixels(network.name, weights, published, pixels)


def _published(network: str, weights: str) -> Published:
    library, _, name = network.partition(":")
    if library == "torchvision":
        return from_torchvision.published_weights(name, weights)
    if library == "timm":
        return from_timm.published_weights(name, weights)
    raise ValueError(
        f"weights: expected a .pth, .pt or .safetensors file, got {weights!r}; only torchvision's and timm's have names"
    )


def _adapted(network: str, model: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return from_timm.adapted(model, state) if network.startswith("timm:") else state


def _check_pixels(network: str, weights: str, published: Published, pixels: PixelForm) -> Json:
    """Refuse another normalisation than the network was trained with, which costs accuracy without an error; say what else
    differs. Returns facts for the receipt."""
    difference = published.difference(pixels.mean, pixels.std)
    if difference:
        raise ValueError(f"weights {weights}: {difference}; set the row's mean and std to these, or choose another teacher")
    if (published.image_size, published.interpolation) != (pixels.image_size, _INTERPOLATION):
        sys.stderr.write(
            f"network {network}: weights {published.name} were tested by their authors on images of {published.image_size} px, "
            f"{published.interpolation}, crop {published.crop:g}; here on {pixels.image_size} px, {_INTERPOLATION}\n"
        )
    return {"weights": published.name}


def _rows(weights: str, classes: Sequence[str]) -> list[int]:
    """The outputs of networks trained on ImageNet's 1,000 classes that are `classes`, in their order."""
    index = {wordnet_id: row for row, wordnet_id in enumerate(class_ids())}
    other = next((name for name in classes if name not in index), None)
    if other is not None:
        raise ValueError(
            f"weights {weights}: expected classes of ImageNet by WordNet id (n01440764, ...), since the outputs are these, "
            f"got a class {other!r}; rename the folders, train the teacher, or name another file"
        )
    return [index[name] for name in classes]


def _has_more_outputs(state: Mapping[str, Any], model: nn.Module) -> bool:
    """Whether a file has the 1,000 outputs of ImageNet where the network has fewer."""
    counts = [
        sum(isinstance(value, Tensor) and value.shape[:1] == (_IMAGENET,) for value in entries.values())
        for entries in (state, model.state_dict())
    ]
    return counts[0] > counts[1]


def _load_rows(model: nn.Module, network: NetworkShape, state: Mapping[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    """Load the weights of the network with 1,000 outputs, of its last layer the rows alone; returns that layer whole.

    Every entry whose shape depends on the number of classes belongs to that layer, linear or convolutional, or one beside it.
    """
    target = model.state_dict()
    whole = build(network.model_copy(update={"classes": _IMAGENET}), 0, next(iter(target.values())).device)
    load_by_order(whole, _adapted(network.name, whole, state))
    taken, ordered = dict(whole.state_dict()), {}
    order = [*rows, *(row for row in range(_IMAGENET) if row not in rows)]
    for name, value in taken.items():
        if value.shape != target[name].shape:
            if tuple(value.shape) != (_IMAGENET, *target[name].shape[1:]):
                raise ValueError(f"state dict entry {name!r}: expected a row per class, got shape {tuple(value.shape)}")
            ordered[ALL_OUTPUTS + name] = value[order]
            taken[name] = value[rows]
    load_own(model, taken)
    return ordered


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
