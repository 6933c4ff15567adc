"""select: choose the real images, or crops of them, that a shard of synthetic images starts from.

Inputs: the data set, the teachers if the choice depends on them. Output, as recover's: safetensors with images (uint8,
N,C,S,S), labels (int64) and each image's number within its class; and `sources` (N, cells^2), the training image of every crop
by its index.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gvbsm.config.images import Select
from gvbsm.data.image_set import check_images_per_class
from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import Split, open_split
from gvbsm.method.crops import RATIO, crop_and_resize, draw_crops
from gvbsm.method.parts import members_of
from gvbsm.method.selection import (
    by_loss,
    cross_entropy,
    dealt,
    enlarge,
    entropy,
    joined_features,
    nearest_and_unsure,
    pack,
    shrink,
)
from gvbsm.method.transfer import send
from gvbsm.pipeline.select import SelectSpec
from gvbsm.runtime.checkpoints import Checkpoint, State
from gvbsm.runtime.devices import job_device
from gvbsm.runtime.progress import Progress
from gvbsm.store.job import Job
from gvbsm.store.keys import derive_seed
from gvbsm.training.networks import features_of, load_teacher

_AT_ONCE = 100  # real images
_BY_FEATURES = ("clusters", "margin")  # choices that read the teachers' features


class _Crops(NamedTuple):
    """One crop of each of N real images."""

    small_NCss: Tensor  # uint8
    loss_N: Tensor  # cross-entropy
    entropy_N: Tensor
    features: list[Tensor]  # (N,F) of each teacher, for choices that read them


@torch.inference_mode()
def run(job: Job[SelectSpec]) -> None:
    """Choose the images of a spec."""
    settings = job.spec.settings
    device = job_device(job, settings.threads)
    train = open_split(job, job.spec.inputs.data, "train", torch.device("cpu"))
    teachers = [load_teacher(*job.tensors(path), device, settings.precision) for path in job.spec.inputs.teachers]
    pixels = Pixels(job.spec.pixels, device)
    groups = [group for batch in job.spec.batches for group in batch]
    needed = max(end for _, _, end in groups) * settings.cells**2 * settings.candidates
    check_images_per_class(train.labels, job.classes or [], needed, "select", "lower select.candidates or select.cells")
    checkpoint = Checkpoint.of(job)
    state: State = checkpoint.load() or {"images": [], "sources": []}
    progress = Progress(job.title, len(groups), len(state["images"]))
    for label, first, end in groups[len(state["images"]) :]:
        candidates = _candidates(train.labels, label, first, end, settings)
        small, sources = _choose(candidates, label, (end - first) * settings.cells**2, train, teachers, pixels, settings)
        state["images"].append(pack(small, settings.cells))
        state["sources"].append(sources.view(end - first, -1))
        checkpoint.tick(lambda: state)
        progress.step()
    tensors = {name: torch.cat(parts) for name, parts in state.items()}
    tensors["labels"], tensors["numbers"] = members_of(groups)
    job.images = sum(end - first for _, first, end in groups) * settings.cells**2 * settings.candidates
    job.write_tensors(tensors, {}, {"images": len(tensors["labels"])})
    checkpoint.clear()


def _candidates(labels_N: Tensor, label: int, first: int, end: int, settings: Select) -> Tensor:
    """Indices of the candidate training images of the synthetic images `first` to `end` of a class; no other shard's."""
    members = (labels_N == label).nonzero().squeeze(1)
    each = settings.cells**2 * settings.candidates
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "candidates", label))
    return members[torch.randperm(len(members), generator=generator)][first * each : end * each]


def _choose(
    candidates: Tensor,
    label: int,
    count: int,
    train: Split,
    teachers: list[nn.Module],
    pixels: Pixels,
    settings: Select,
) -> tuple[Tensor, Tensor]:
    """`count` small crops (uint8) of a class, and the indices of their training images."""
    parts: list[_Crops] = []
    batches = candidates.split(_AT_ONCE)
    for number, images_BCHW in enumerate(train.whole_images(batches)):
        seed = derive_seed(settings.seed, "crops", label, int(candidates[0]), number)
        parts.append(_best_crops(images_BCHW, seed, label, teachers, pixels, settings))
    small_NCss = torch.cat([part.small_NCss for part in parts])
    if settings.choose == "random":
        chosen = torch.arange(count)
    elif settings.choose in _BY_FEATURES:
        by_teacher = zip(*(part.features for part in parts), strict=True)
        features_NF = joined_features([torch.cat(features) for features in by_teacher])
        centres_kF = _centres(features_NF, count if settings.choose == "clusters" else -(-count // 2), settings)
        chosen = nearest_and_unsure(features_NF, centres_kF, torch.cat([part.entropy_N for part in parts]), count)
    else:
        ranked = by_loss(torch.cat([part.loss_N for part in parts]), settings.choose)[:count]
        chosen = dealt(ranked, settings.cells)
    return small_NCss[chosen], candidates[chosen]


def _best_crops(
    images_NCHW: Tensor, seed: int, label: int, teachers: list[nn.Module], pixels: Pixels, settings: Select
) -> _Crops:
    """The crop of every image with the lowest cross-entropy."""
    count, size, crops = len(images_NCHW), images_NCHW.shape[-1], settings.crops
    whole = send(images_NCHW, pixels.device).repeat_interleave(crops, 0).float()
    (smallest, largest), (narrowest, widest) = settings.scale, settings.ratio or RATIO
    drawn = send(draw_crops(len(whole), size, (smallest, largest), (narrowest, widest), seed), pixels.device)
    mirrored = torch.zeros(len(whole), dtype=torch.bool, device=pixels.device)
    small = shrink(crop_and_resize(whole, drawn, mirrored), settings.cells)
    if not teachers:
        return _Crops(small.cpu(), torch.zeros(count), torch.zeros(count), [])
    x_BCHW = pixels.from_levels(enlarge(small, size)).contiguous(memory_format=torch.channels_last)
    outputs = [features_of(teacher, x_BCHW, settings.precision) for teacher in teachers]
    logits_TBK = torch.stack([logits_BK for logits_BK, _ in outputs])
    loss_NR = cross_entropy(logits_TBK, label).view(count, crops).cpu()
    best = send(torch.arange(count) * crops + loss_NR.argmin(1), pixels.device)
    features = [features_BF[best].cpu() for _, features_BF in outputs] if settings.choose in _BY_FEATURES else []
    return _Crops(small[best].cpu(), loss_NR.amin(1), entropy(logits_TBK)[best].cpu(), features)


def _centres(features_NF: Tensor, count: int, settings: Select) -> Tensor:
    """Centres (count,F) of the clusters of a class."""
    from sklearn.cluster import KMeans  # here, because the import takes a second
    from threadpoolctl import threadpool_limits

    with threadpool_limits(settings.threads):  # the number of threads changes the order of sums
        clusters = KMeans(count, n_init=1, random_state=settings.seed).fit(features_NF.double().numpy())
    return torch.from_numpy(clusters.cluster_centers_).to(features_NF.dtype)
