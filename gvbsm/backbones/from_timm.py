"""timm's networks, with fresh weights."""

from typing import Any

from torch import nn

_LOADING = {"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}


def build(*, classes: int, image_size: int, channels: int = 3, model: str, **options: Any) -> nn.Module:
    """`timm:<model>`, such as `timm:deit_tiny_patch16_224`; a network of one fixed image size is made for `image_size`.

    Raises:
        ValueError: for an unknown model, or an option that would have timm load weights, which it does not check.
        TypeError: for an option that the model does not have.
    """
    import timm

    if not timm.is_model(model):
        raise ValueError(f"timm has no model {model!r}; `timm.list_models()` names them")
    if loading := sorted(_LOADING & options.keys()):
        raise ValueError(f"expected options of the network, got {loading[0]!r}; name a file of weights in `weights`")
    default = timm.get_pretrained_cfg(model)
    if default is not None and default.fixed_input_size:
        options = {"img_size": image_size} | options
    return timm.create_model(model, pretrained=False, num_classes=classes, in_chans=channels, **options)
