"""student: train one student as evaluate does, and keep its weights.

Inputs: as evaluate's. Output: safetensors with the tested state dict (with `ema`, the average of the student's weights); its
network is in the metadata, its test accuracy in the receipt.
"""

from __future__ import annotations

from torch import nn

from gvbsm.pipeline.student import KeptHardStudentSpec, KeptStudentSpec
from gvbsm.runtime.checkpoints import Checkpoint, State
from gvbsm.runtime.devices import job_device
from gvbsm.store.job import Job
from gvbsm.training.fit import Measured
from gvbsm.training.students import Students


def run(job: Job[KeptStudentSpec | KeptHardStudentSpec]) -> None:
    """Train the student of a spec."""
    settings, seed = job.spec.settings, job.spec.seed
    students = Students(job, job_device(job, settings.threads))
    checkpoint = Checkpoint.of(job)
    # A second checkpoint: the tested weights may be an average, from which training cannot continue.
    end = checkpoint.named("end")
    trained: State = end.load() or {}
    of_seed = checkpoint.named(f"seed{seed}")
    if not trained and of_seed.file and (of_seed.load() or {"epoch": 0})["epoch"] >= settings.epochs:
        of_seed.file.unlink()  # the kept weights are lost or damaged, and a training at its end would not keep them again

    def keep(model: nn.Module, epoch: int) -> Measured:
        accuracy = students.test(model)
        trained.update(weights=model.state_dict(), top1=accuracy.top1, top5=accuracy.top5)
        end.save(trained)
        return {}

    history = students.train(seed, of_seed, keep, settings.epochs)
    job.images = len(history) * students.images
    summary = {"seed": seed, "loss": history[-1]["loss"], "top1": trained["top1"], "top5": trained["top5"]}
    job.write_tensors(trained["weights"], {"network": job.spec.network.model_dump()}, summary)
    checkpoint.clear()
