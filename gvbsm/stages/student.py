"""student: train one student as evaluate does, and keep its weights.

Inputs: as evaluate's. Output: safetensors with the student's state dict (the average of its weights, if that is what is
tested), its network in the metadata, its test accuracy in the receipt.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from gvbsm.pipeline.student import KeptHardStudentSpec, KeptStudentSpec
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.runtime.devices import job_device
from gvbsm.store.job import Job
from gvbsm.training.students import Students


def run(job: Job[KeptStudentSpec | KeptHardStudentSpec]) -> None:
    """Train the student of a spec."""
    settings, seed = job.spec.settings, job.spec.seed
    students = Students(job, job_device(job, settings.threads))
    checkpoint = Checkpoint.of(job)
    # Of its own: what is tested at the end is not what the training goes on from, if it is an average.
    end = checkpoint.named("end")
    trained: dict[str, Any] = end.load() or {}

    def keep(model: nn.Module, epoch: int) -> dict[str, Any]:
        if epoch + 1 == settings.epochs:
            found = students.test(model)
            trained.update(weights=model.state_dict(), top1=found.top1, top5=found.top5)
            end.save(trained)
        return {}

    history = students.train(seed, checkpoint.named(f"seed{seed}"), keep)
    job.images = len(history) * students.images
    summary = {"seed": seed, "loss": history[-1]["loss"], "top1": trained["top1"], "top5": trained["top5"]}
    job.write_tensors(trained["weights"], {"network": job.spec.network.model_dump()}, summary)
    checkpoint.clear()
