"""Networks by name: ours for small images, and those of libraries. Importing this package does not import torch; `build` does.

The planner reads the two dicts and the builders' keyword-only parameters from the syntax tree, so the dicts are
literal and every option of our own networks is a named parameter with a default.
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

# Prefix of a name -> builder that takes the rest of the name as `model`, and any option the library has for it.
LIBRARIES = {
    "timm": "gvbsm.backbones.from_timm:build",
    "torchvision": "gvbsm.backbones.from_torchvision:build",
}


def build(name: str, *, classes: int, image_size: int, channels: int = 3, **options: Any) -> "torch.nn.Module":
    """A new network that maps float images (B, channels, image_size, image_size) to logits (B, classes).

    Args:
        name: a key of `BACKBONES`, or `<library>:<name of its model>` with a library of `LIBRARIES`.
        options: keyword-only parameters of that network's builder.

    Raises:
        ValueError: for an unknown name, or an option whose value the builder cannot use.
        TypeError: for an option the builder does not have.
    """
    library, colon, model = name.partition(":")
    if colon and library in LIBRARIES:
        builder, options = LIBRARIES[library], options | {"model": model}
    elif name in BACKBONES:
        builder = BACKBONES[name]
    else:
        raise ValueError(f"unknown backbone {name!r}; choose from {', '.join(sorted(BACKBONES))}")
    module, _, function = builder.partition(":")
    return getattr(import_module(module), function)(classes=classes, image_size=image_size, channels=channels, **options)
