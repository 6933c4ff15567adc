"""relabel: draw the views of a range of epochs and store the teachers' mean logits on them (GBM).

Inputs: teachers, an image set. Output: safetensors with the coded logits, (epochs, views, ...); the metadata hold the
settings and seed of the views (docs/soft-labels.md).
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from gvbsm.config.labels import ViewsOfImages
from gvbsm.data.epoch_views import FORMAT, epoch_views
from gvbsm.data.image_set import open_image_set
from gvbsm.data.pixels import Pixels
from gvbsm.data.rand_augment import RandAugment
from gvbsm.errors import UserError
from gvbsm.method.coding import Coded, Coding, encode
from gvbsm.method.parts import parts_measured, split_batches
from gvbsm.method.soft_labels import mean_logits, teachers_see_mixed
from gvbsm.method.views import digest, grouped, mixed_hard_labels, render
from gvbsm.pipeline.relabel import RelabelSpec
from gvbsm.runtime.checkpoints import Checkpoint, State
from gvbsm.runtime.devices import job_device
from gvbsm.runtime.progress import Progress
from gvbsm.store.job import Job
from gvbsm.training.networks import load_teacher, logits_of


@torch.inference_mode()
def run(job: Job[RelabelSpec]) -> None:
    """Label the epochs of a spec."""
    spec, settings, (first, end) = job.spec, job.spec.settings, job.spec.epochs
    device = job_device(job, settings.threads)
    pixels = Pixels(spec.pixels, device)
    image_set = open_image_set(job, spec.inputs.images, spec.inputs.data, spec.random)
    count, size = image_set.shape[0], image_set.shape[-1]
    precision, batchnorm = settings.precision, settings.batchnorm
    teachers = [load_teacher(*job.tensors(path), device, precision, batchnorm) for path in spec.inputs.teachers]
    coding = Coding(**settings.coding.model_dump())
    checkpoint = Checkpoint.of(job)
    state: State = checkpoint.load() or {"digests": [], "batches": 0, "right": 0}
    coded = {
        name: checkpoint.tensor(name, (end - first, count, *view.shape[1:]), view.dtype)
        for name, view in encode(torch.zeros(1, len(job.classes or ())), coding).items()
    }
    images, augment = image_set.resident(device), RandAugment.of(settings)
    mixed = teachers_see_mixed(settings.mix, settings.mixup_labels)
    batches = split_batches(torch.arange(count), settings.batch_size)  # as students have them
    values_of_view = image_set.shape[1:].numel()
    progress = Progress(job.title, end - first, len(state["digests"]))
    for number in range(len(state["digests"]), end - first):
        views = epoch_views(settings, first + number, count, size)
        # Counted in batches, because another device, on which the job may go on, has other groups.
        for group in grouped(batches[state["batches"] :], values_of_view, device):
            positions = torch.cat(group)
            x_VCHW = render(images, views, positions, mixed, pixels.from_levels, device, augment)
            logits_TVK = logits_of(teachers, x_VCHW, precision, parts_measured(group, settings.batchnorm_part))
            # Batch by batch: the norms of rescaling are those of a batch.
            of_batches = logits_TVK.split([len(batch) for batch in group], 1)
            logits_VK = torch.cat([mean_logits(logits_TBK, settings.rescale_logits) for logits_TBK in of_batches])
            truth_V = mixed_hard_labels(image_set.labels, views, positions, logits_VK.shape[1], mixed).argmax(1)
            state["right"] += int((logits_VK.argmax(1).cpu() == truth_V).sum())
            for name, values in _encode_finite(logits_VK, coding).items():
                coded[name][number, positions] = values
            state["batches"] += len(group)
            checkpoint.tick(lambda: state)
        state["digests"].append(digest(views))
        state["batches"] = 0
        progress.step()
    views_labelled = job.images = (end - first) * count
    summary = {"views": views_labelled, "teacher_top1_on_views": 100 * state["right"] / views_labelled}
    drawn = {"count": count, "size": size, **settings.model_dump(include=set(ViewsOfImages.model_fields))}
    labels = {"format": FORMAT, "epochs": [first, end], "views": drawn, "digests": state["digests"], "coding": asdict(coding)}
    job.write_tensors(coded, labels, summary | {"bytes_per_view": sum(tensor[0, 0].nbytes for tensor in coded.values())})
    checkpoint.clear()


def _encode_finite(logits_VK: Tensor, coding: Coding) -> Coded:
    """Coded logits, on the CPU. Raises UserError if the coding overflows."""
    if logits_VK.device.type == "mps":  # has no float64
        logits_VK = logits_VK.cpu()
    coded = {name: tensor.cpu() for name, tensor in encode(logits_VK, coding).items()}
    if not all(torch.isfinite(tensor).all() for tensor in coded.values()):
        largest = logits_VK.abs().max().item()
        got = f"expected logits that {coding.values} can hold, got up to {largest:.3g}"
        raise UserError(f"relabel: {got}; set relabel.coding.values: float32 and top: null")
    return coded
