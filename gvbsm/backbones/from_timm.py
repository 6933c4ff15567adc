"""timm's networks, with fresh weights, and its pretrained weights."""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gvbsm.backbones.published import Published, fetch, first_line, hub_file

_LOADING = {"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}
_CLASSES = 1000  # of ImageNet
_FILES = ("model.safetensors", "pytorch_model.bin")  # what repositories of the Hugging Face Hub call weights


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


def published_weights(model: str, weights: str) -> Published:
    """timm's weights of a tag, such as `ra_in1k`, for ImageNet's 1,000 classes.

    `pretrained` is the tag in the model's name, or else the one that the installed timm takes. The file is
    `<model>.<tag>.safetensors` in torch's hub folder, or else the Hugging Face Hub's, which its library keeps.

    Raises:
        ValueError: if the model has no such weights.
    """
    import timm

    model, _, named = model.partition(".")
    default = timm.get_pretrained_cfg(model)
    tag = weights if weights != "pretrained" else named or (default.tag if default else "")
    what = f"weights {weights!r} of timm:{model}"
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{model}.*")]
    configs: dict[str, Any] = {known: timm.get_pretrained_cfg(f"{model}.{known}") for known in tags}
    usable = {known: config for known, config in configs.items() if config.num_classes == _CLASSES}
    if tag not in usable:
        got = f"{configs[tag].num_classes} classes" if tag in configs else "none of that name"
        choices = f"choose from {', '.join(usable)}" if usable else "train it, or name a file"
        raise ValueError(f"{what}: expected weights for ImageNet's {_CLASSES} classes, got {got}; {choices}")
    config = usable[tag]
    size = config.test_input_size or config.input_size
    crop = config.test_crop_pct or config.crop_pct
    file = partial(_file, what, f"{model}.{tag}", config)
    return Published(tag, file, config.mean, config.std, size[-1], config.interpolation, crop)


def _file(what: str, name: str, config: Any) -> Path:
    own = hub_file(f"{name}.safetensors")
    if own.exists():
        return own
    if not config.hf_hub_id:
        return fetch(what, config.url)
    repository, _, revision = config.hf_hub_id.partition("@")
    names = (config.hf_hub_filename,) if config.hf_hub_filename else _FILES
    try:
        return _from_hub(repository, revision or None, names)
    except Exception as error:  # of the library of the Hub, and of the one that it asks for files with
        reason = first_line(error)
        url = f"https://huggingface.co/{repository}/resolve/{revision or 'main'}/{names[0]}"
        raise ValueError(f"{what}: expected {own}, which could not be had: {reason}; put the file from {url} there") from None


def _from_hub(repository: str, revision: str | None, names: tuple[str, ...]) -> Path:
    """The first file of these names that a repository of the Hugging Face Hub has: kept from before, or downloaded."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        kept = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(kept, str):
            return Path(kept)
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, revision=revision))
        except LocalEntryNotFoundError:  # no network
            raise
        except EntryNotFoundError:
            continue
    raise ValueError(f"{repository} has no {' or '.join(names)}")


def adapted(model: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A published state dict in the form that the installed timm gives its model, if it has another."""
    target = model.state_dict()
    if state.keys() == target.keys() and all(state[name].shape == target[name].shape for name in target):
        return state
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    result: Mapping[str, Tensor] = adapt(dict(state), model) if adapt else state
    return result
