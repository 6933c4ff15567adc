"""torchvision's classification networks, and its pretrained weights."""

from functools import partial
from typing import Any

from torch import nn

from gvbsm.backbones.published import Published, fetch


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


def published_weights(model: str, weights: str) -> Published:
    """torchvision's weights of a name, for ImageNet's 1,000 classes.

    Raises:
        ValueError: if the model has no such weights.
    """
    from torchvision import models

    versions = {entry.name: entry for entry in models.get_model_weights(model)}  # without DEFAULT, which torchvision may change
    if weights not in versions:
        raise ValueError(f"weights {weights!r} of torchvision:{model}: unknown; choose from {', '.join(versions)}")
    images = versions[weights].transforms()
    (size,), (shorter,) = images.crop_size, images.resize_size
    file = partial(fetch, f"weights {weights}", versions[weights].url)
    return Published(weights, file, images.mean, images.std, size, images.interpolation.value, size / shorter)
