"""Loading foreign state dicts, such as the authors' released `squeeze_<name>.pth`, into our networks."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

_COUNTER = "num_batches_tracked"  # absent from old checkpoints; BatchNorm uses it only without a momentum
_AUXILIARY = re.compile(r"(module\.)?(aux1|aux2|AuxLogits)\.")
_LEAVES = {"weight", "bias", "running_mean", "running_var", _COUNTER}


def load_by_order(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into `model`: by name if the names agree, else entry by entry in order, with equal shapes.

    A `module.` prefix common to all names is stripped, and BatchNorm's batch counters may be missing. Tensors
    take the model's dtype and device; the model is untouched if anything is wrong.

    Raises:
        ValueError: for the first entry that does not fit.
    """
    target, source = model.state_dict(), _checked(state)
    if len(_counters(target)) != len(_counters(source)):
        target, source = _without_counters(target), _without_counters(source)
    same_names = target.keys() == source.keys()
    pairs = dict(zip(target, target if same_names else source, strict=False))
    for name, other in pairs.items():
        _check_fit(name, target[name], other, source[other])
    if len(source) != len(target):
        _raise_count(target, source)
    load_own(model, {**model.state_dict(), **{name: source[other] for name, other in pairs.items()}})


def load_own(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict that the same network has written. It gets the versions that the network's layers write, since files
    have none: some networks (MNASNet) refuse a state dict without."""
    versioned = OrderedDict(state)
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned)


def without_auxiliary(model: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A published state dict without the further outputs that GoogLeNet and Inception have in training, if `model` has none."""
    own = model.state_dict()
    return {name: value for name, value in state.items() if name in own or not _AUXILIARY.match(name)}


def _checked(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The entries without a common `module.` prefix, all of them tensors."""
    wrong = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        kind = type(state[wrong[0]]).__name__
        raise ValueError(f"state dict entry {wrong[0]!r}: expected a tensor, got {kind}; pass the inner state dict")
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


def _check_fit(name: str, target: Tensor, other: str, source: Tensor) -> None:
    remedy = "build the network with the checkpoint's classes, image_size, channels and options"
    if target.shape != source.shape:
        expected, got = tuple(target.shape), tuple(source.shape)
        raise ValueError(f"state dict entry {name!r}: expected shape {expected}, got {got} from {other!r}; {remedy}")
    # Weight, bias, mean and variance of a norm have one shape, so a comparison of shapes would not detect a swap.
    leaf, other_leaf = name.rpartition(".")[2], other.rpartition(".")[2]
    if other_leaf in _LEAVES and other_leaf != leaf:
        raise ValueError(f"state dict entry {name!r}: expected a {leaf}, got {other!r}; {remedy}")


def _raise_count(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    longer = target if len(target) > len(source) else source
    name = list(longer)[min(len(target), len(source))]
    shape = tuple(longer[name].shape)
    expected, got = (shape, "nothing") if longer is target else ("nothing", shape)
    raise ValueError(
        f"state dict entry {name!r}: expected shape {expected}, got {got} ({len(target)} entries expected, "
        f"{len(source)} got); load a checkpoint of the same network"
    )


def _counters(state: Mapping[str, Tensor]) -> list[str]:
    return [name for name in state if name.endswith(_COUNTER)]


def _without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.endswith(_COUNTER)}
