"""Networks for small images, by name. Importing this package does not import torch; `build` does.

The planner reads `BACKBONES` and the builders' keyword-only parameters from the syntax tree, so the dict is
literal and every option a named parameter with a default.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BACKBONES = {
    "convnet": "gvbsm.backbones.convnet:convnet",
    "convnet_bn": "gvbsm.backbones.convnet:convnet_bn",
    "resnet10": "gvbsm.backbones.resnet:resnet10",
    "resnet18": "gvbsm.backbones.resnet:resnet18",
    "resnet18_in": "gvbsm.backbones.resnet:resnet18_in",
    "resnet18_gn": "gvbsm.backbones.resnet:resnet18_gn",
    "resnet50": "gvbsm.backbones.resnet:resnet50",
    "resnet101": "gvbsm.backbones.resnet:resnet101",
    "mobilenet_v2": "gvbsm.backbones.mobilenet_v2:mobilenet_v2",
    "wrn16_2": "gvbsm.backbones.wrn:wrn16_2",
    "shufflenet_v2": "gvbsm.backbones.shufflenet_v2:shufflenet_v2",
}


def build(name: str, *, classes: int, image_size: int, channels: int = 3, **options: Any) -> "torch.nn.Module":
    """A new network that maps float images (B, channels, image_size, image_size) to logits (B, classes).

    Args:
        name: a key of `BACKBONES`.
        options: keyword-only parameters of that network's builder.

    Raises:
        ValueError: for an unknown name, or an option whose value the builder cannot use.
        TypeError: for an option the builder does not have.
    """
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; choose from {', '.join(sorted(BACKBONES))}")
    module, _, function = BACKBONES[name].partition(":")
    builder = getattr(import_module(module), function)
    return builder(classes=classes, image_size=image_size, channels=channels, **options)
