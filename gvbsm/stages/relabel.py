"""relabel: draw the views of a range of epochs and store the teachers' mean logits on them (GBM).

Inputs: teachers, an image set. Output: safetensors with the parameters of every view, (epochs, views, ...), and `logits`
(epochs, views, classes).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gvbsm.artifacts import Job
from gvbsm.data.epoch_views import epoch_views
from gvbsm.data.image_set import load_image_set
from gvbsm.data.pixels import Pixels
from gvbsm.errors import UserError
from gvbsm.method.soft_labels import mean_logits
from gvbsm.method.views import Images, Views, mixed_hard_labels, render
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.runtime.devices import autocast, job_device
from gvbsm.runtime.networks import load_teacher
from gvbsm.runtime.progress import Progress


@torch.inference_mode()
def run(job: Job) -> None:
    """Label the epochs of a spec."""
    settings, (first, end) = job.spec["settings"], job.spec["epochs"]
    device = job_device(job, settings["threads"])
    pixels = Pixels(job.spec["pixels"], device)
    image_set = load_image_set(job)
    count, size = image_set.shape[0], image_set.shape[-1]
    teachers = [load_teacher(*job.tensors(path), device) for path in job.spec["inputs"]["teachers"]]
    checkpoint = Checkpoint.of(job)
    state: dict[str, Any] = checkpoint.load() or {"logits": [], "right": 0}
    images = image_set.resident(device)
    progress = Progress(job.title, end - first, len(state["logits"]))
    for epoch in range(first + len(state["logits"]), end):
        views = epoch_views(settings, epoch, count, size)
        logits_VK = _label_epoch(teachers, images, views, pixels, settings, device)
        truth_V = mixed_hard_labels(image_set.labels, views, torch.arange(len(views)), logits_VK.shape[1], mixed=True).argmax(1)
        state["right"] += int((logits_VK.argmax(1) == truth_V).sum())
        state["logits"].append(_stored(logits_VK, settings["dtype"]))
        checkpoint.tick(lambda: state)
        progress.step()
    stacked = [epoch_views(settings, epoch, count, size).tensors() for epoch in range(first, end)]
    tensors = {name: torch.stack([one[name] for one in stacked]) for name in stacked[0]}
    tensors["logits"] = torch.stack(state["logits"])
    views_labelled = job.images = (end - first) * count
    summary = {"views": views_labelled, "teacher_top1_on_views": 100 * state["right"] / views_labelled}
    job.write_tensors(tensors, {"batch_size": settings["batch_size"]}, summary)
    checkpoint.clear()


def _stored(logits_VK: Tensor, dtype: str) -> Tensor:
    """Logits in the type they are stored in, which must be able to hold them."""
    stored = logits_VK.to(getattr(torch, dtype))
    if not torch.isfinite(stored).all():
        largest = logits_VK.abs().max().item()
        raise UserError(f"relabel: expected logits that {dtype} can hold, got up to {largest:.3g}; set relabel.dtype: float32")
    return stored


def _label_epoch(
    teachers: list[nn.Module],
    images: Images | Tensor,
    views: Views,
    pixels: Pixels,
    settings: dict[str, Any],
    device: torch.device,
) -> Tensor:
    """Mean logits (V,K) of one epoch's views, in float32 on the CPU; norms for rescaling are per batch."""
    found = []
    mixed = settings["mix"] != "mixup" or settings["mixup_labels"] == "mixed"
    for positions in torch.arange(len(views)).split(settings["batch_size"]):
        x_VCHW = render(images, views, positions, mixed, pixels.from_levels, device)
        with autocast(device, settings["precision"]):
            logits_TVK = torch.stack([teacher(x_VCHW).float() for teacher in teachers])
        found.append(mean_logits(logits_TVK, settings["rescale_logits"]).cpu())
    return torch.cat(found)
