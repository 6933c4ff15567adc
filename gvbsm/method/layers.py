"""Which layers of a teacher are matched, and which of their statistics."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


def hooked_layers(model: nn.Module, layers: tuple[str, ...]) -> dict[str, nn.Module]:
    """The Conv2d and BatchNorm2d modules whose inputs are matched, in `named_modules()` order."""
    classes: dict[str, type[nn.Module]] = {"batchnorm": nn.BatchNorm2d, "conv": nn.Conv2d}
    kinds = tuple(classes[layer] for layer in layers)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def most_important(importance: Mapping[str, Mapping[str, float]], share: float) -> frozenset[tuple[str, str]]:
    """The most important share of the (layer, kind) pairs, at least one pair, of {layer: {kind: importance}}."""
    ranked = sorted(
        ((value, layer, kind) for layer, kinds in importance.items() for kind, value in kinds.items()), reverse=True
    )
    return frozenset((layer, kind) for _, layer, kind in ranked[: max(1, round(share * len(ranked)))])
