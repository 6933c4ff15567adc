"""Networks from their specs, teachers from their artifacts, and the accuracy of either."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gvbsm.backbones.build import build as build_network
from gvbsm.backbones.weights import load_own
from gvbsm.config.messages import as_in_a_row
from gvbsm.config.shapes import NetworkShape
from gvbsm.errors import UserError, first_line
from gvbsm.method.memory import in_parts
from gvbsm.method.ranks import ranks
from gvbsm.store.keys import derive_seed
from gvbsm.store.spec import Json
from gvbsm.training.precision import autocast, hold_weights

ALL_OUTPUTS = "all_outputs/"  # before a name in squeeze's artifact: of the entry with a row for every output of given weights


class Accuracy(NamedTuple):
    """Percent of test images."""

    top1: float  # right at the first guess
    top5: float  # right within five guesses
    by_class: list[float]  # top-1 of the images of every class
    guess_N: Tensor  # int64: the class that each image is called first; -1 for NaN or infinite logits


class LabelledImages(Protocol):
    """What `accuracy` needs of a split. Stages that load networks alone should not depend on the reading of images."""

    labels: Tensor  # int64 (N,)
    at_once: int  # images to read together

    def whole_images(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """uint8 images (B,C,S,S) for each batch of indices."""
        ...


def build(network: NetworkShape, seed: int, device: torch.device) -> nn.Module:
    """A fresh network of a spec's `network` entry, its weights drawn from `seed`, in channels-last layout.

    Raises:
        UserError: if the network cannot have those options or that image size.
    """
    torch.manual_seed(derive_seed(seed, "weights"))
    arguments: dict[str, Any] = network.model_dump(exclude={"name"})
    options = arguments.pop("options")
    try:
        model = build_network(network.name, **arguments, **options)
    except Exception as error:  # of code by others, which may raise anything
        raise UserError(
            f"network {network.name} with options {as_in_a_row(network.options)}: {first_line(error)}; correct the row"
        ) from None
    return model.to(device).to(memory_format=torch.channels_last)


def load_teacher(
    tensors: dict[str, Tensor],
    metadata: Json,
    device: torch.device,
    precision: str,
    batchnorm: str | None = None,
    outputs: str | None = None,
) -> nn.Module:
    """A teacher from squeeze's artifact, for passes in `precision`: eval mode, no gradients to its weights.

    With `batchnorm` "batch", its BatchNorm layers have no moments of their own, and take those of what passes together. With
    `outputs` "all", those of given weights that are of no class of the row follow its classes.
    """
    network = NetworkShape.model_validate(metadata["network"])
    state = {name: value for name, value in tensors.items() if not name.startswith(ALL_OUTPUTS)}
    if outputs == "all" and len(state) < len(tensors):
        whole = {name.removeprefix(ALL_OUTPUTS): value for name, value in tensors.items() if name.startswith(ALL_OUTPUTS)}
        network = network.model_copy(update={"classes": len(next(iter(whole.values())))})
        state |= whole
    model = build(network, 0, device)
    load_own(model, state)
    hold_weights(model, device, precision)
    for layer in _batchnorms(model) if batchnorm == "batch" else []:
        layer.running_mean = layer.running_var = None  # which makes torch measure the batch, in eval mode too
    return model.eval().requires_grad_(False)


def _batchnorms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def logits_of(teachers: Sequence[nn.Module], x_BCHW: Tensor, precision: str, together: Sequence[int] | None = None) -> Tensor:
    """Logits of T teachers in eval mode for a batch: float32 (T,B,K). A large batch passes in parts, to save memory.

    `together` are the sizes of the parts of which a teacher whose BatchNorm layers measure the batch takes moments. Each
    passes alone, so that its logits do not depend on the rest of the batch in any bit.
    """
    in_memory = in_parts(x_BCHW, x_BCHW.device)
    measured = x_BCHW.split(list(together)) if together else in_memory
    with autocast(x_BCHW.device, precision):
        return torch.stack(
            [
                torch.cat([teacher(part_PCHW).float() for part_PCHW in (measured if _measures(teacher) else in_memory)])
                for teacher in teachers
            ]
        )


def _measures(teacher: nn.Module) -> bool:
    """Whether a teacher takes moments of what passes together."""
    return any(layer.running_mean is None for layer in _batchnorms(teacher))


def features_of(model: nn.Module, x_BCHW: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """Logits (B,K) of a batch and penultimate features (B,F), the input of the last linear layer (without one, the logits);
    float32. The model is in eval mode; a large batch passes in parts, to save memory."""
    features: list[Tensor] = []
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    hooks = [module.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0])) for module in head]
    results = []
    try:
        for part_PCHW in in_parts(x_BCHW, x_BCHW.device):
            logits_PK = logits_of([model], part_PCHW, precision)[0]
            results.append((logits_PK, features[-1].float().flatten(1) if features else logits_PK))
            features.clear()
    finally:
        for hook in hooks:
            hook.remove()
    logits, all_features = zip(*results, strict=True)
    return torch.cat(logits), torch.cat(all_features)


@torch.inference_mode()
def accuracy(model: nn.Module, test: LabelledImages, prepare: Callable[[Tensor], Tensor], precision: str) -> Accuracy:
    """Accuracy of a model in eval mode on N test images. `prepare` turns uint8 images (B,C,S,S) into network inputs. Processes
    that train together share the images. Guesses leave the device once, at the end."""
    device, together, labels_N = next(model.parameters()).device, ranks(), test.labels
    own_P = torch.arange(len(labels_N))[together.part(len(labels_N))]
    guesses: list[Tensor] = []  # (B,5), on the device
    for images_BCHW in test.whole_images(own_P.split(test.at_once) if len(own_P) else []):
        logits = []
        for part_PCHW in in_parts(images_BCHW, device):
            x_PCHW = prepare(part_PCHW.to(device)).contiguous(memory_format=torch.channels_last)
            with autocast(device, precision):
                logits.append(model(x_PCHW).float())
        logits_BK = torch.cat(logits)
        guesses_B5 = logits_BK.topk(min(5, logits_BK.shape[1])).indices
        guesses.append(guesses_B5.masked_fill(~logits_BK.isfinite().all(1, True), -1))
    guess_N, in_five_N = torch.zeros(2, len(labels_N), dtype=torch.int64)
    if guesses:
        guesses_P5 = torch.cat(guesses).cpu()
        guess_N[own_P] = guesses_P5[:, 0]
        in_five_N[own_P] = (guesses_P5 == labels_N[own_P].unsqueeze(1)).any(1).long()
    together.add([guess_N, in_five_N])
    images_K = torch.bincount(labels_N)
    right_K = torch.bincount(labels_N[guess_N == labels_N], minlength=len(images_K))
    by_class = [100 * right / n for right, n in zip(right_K.tolist(), images_K.tolist(), strict=True)]
    top1, top5 = (100 * right / len(labels_N) for right in (int(right_K.sum()), int(in_five_N.sum())))
    return Accuracy(top1, top5, by_class, guess_N)
