"""relabel: draw the views of a range of epochs and store the teachers' mean logits on them (GBM).

Inputs: teachers, an image set. Output: safetensors with the coded logits, (epochs, views, ...), and in the metadata what the
views are drawn from (docs/soft-labels.md).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from gvbsm.artifacts import Job
from gvbsm.data.epoch_views import FORMAT, VIEW_SETTINGS, epoch_views
from gvbsm.data.image_set import load_image_set
from gvbsm.data.pixels import Pixels
from gvbsm.errors import UserError
from gvbsm.method.coding import Coded, Coding, encode
from gvbsm.method.soft_labels import mean_logits
from gvbsm.method.views import Images, Views, digest, mixed_hard_labels, render
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
    coding = Coding(**settings["coding"])
    state: dict[str, Any] = checkpoint.load() or {"coded": [], "digests": [], "right": 0}
    images = image_set.resident(device)
    progress = Progress(job.title, end - first, len(state["coded"]))
    for epoch in range(first + len(state["coded"]), end):
        views = epoch_views(settings, epoch, count, size)
        logits_VK = _label_epoch(teachers, images, views, pixels, settings, device)
        truth_V = mixed_hard_labels(image_set.labels, views, torch.arange(len(views)), logits_VK.shape[1], mixed=True).argmax(1)
        state["right"] += int((logits_VK.argmax(1) == truth_V).sum())
        state["coded"].append(_coded(logits_VK, coding))
        state["digests"].append(digest(views))
        checkpoint.tick(lambda: state)
        progress.step()
    tensors = {name: torch.stack([one[name] for one in state["coded"]]) for name in state["coded"][0]}
    views_labelled = job.images = (end - first) * count
    summary = {"views": views_labelled, "teacher_top1_on_views": 100 * state["right"] / views_labelled}
    drawn = {"count": count, "size": size, **{name: settings[name] for name in VIEW_SETTINGS}}
    labels = {"format": FORMAT, "epochs": [first, end], "views": drawn, "digests": state["digests"], "coding": asdict(coding)}
    job.write_tensors(tensors, labels, summary | {"bytes_per_view": sum(one[0, 0].nbytes for one in tensors.values())})
    checkpoint.clear()


def _coded(logits_VK: Tensor, coding: Coding) -> Coded:
    """Logits as they are stored, which must be able to hold them."""
    coded = encode(logits_VK, coding)
    if not all(torch.isfinite(tensor).all() for tensor in coded.values()):
        largest = logits_VK.abs().max().item()
        got = f"expected logits that {coding.values} can hold, got up to {largest:.3g}"
        raise UserError(f"relabel: {got}; set relabel.coding.values: float32")
    return coded


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
