"""convert: read the published soft labels of adopted images, instead of relabelling them, for a range of epochs.

Inputs: the adopted images, a folder of labels below the data root. Output: as relabel's, with the views in addition
(docs/soft-labels.md).
"""

from __future__ import annotations

from gvbsm.data.distilled import imagefolder_order
from gvbsm.data.fkd import PublishedLabels, one_view
from gvbsm.data.folders import is_visible, stamp_if_there
from gvbsm.errors import UserError
from gvbsm.method.coding import Coding
from gvbsm.pipeline.convert import ConvertSpec
from gvbsm.runtime.checkpoints import Checkpoint, State
from gvbsm.runtime.devices import data_device
from gvbsm.runtime.progress import Progress
from gvbsm.store.job import Job


def run(job: Job[ConvertSpec]) -> None:
    """Convert the epochs of a spec."""
    spec, (first, end) = job.spec, job.spec.epochs
    data_device(job)
    images, metadata = job.tensors(spec.inputs.images)
    labels, size = images["labels"], images["images"].shape[-1]
    root = job.data_root / spec.path
    resized = job.receipt(spec.inputs.images)["summary"]["resized"]
    if resized:
        raise UserError(
            f"{root}: expected labels of images of {size} px, got {resized} that were resized; set image_size to theirs"
        )
    order = imagefolder_order(metadata["folders"], labels)
    published = PublishedLabels(root, labels, order, size, len(job.classes or ()), spec.seed)
    coding = Coding(**spec.coding.model_dump())
    checkpoint = Checkpoint.of(job)
    state: State = checkpoint.load() or {"digests": [], "right": 0, "source": stamp_if_there(root, is_visible, "some")}
    done, views = len(state["digests"]), (end - first) * len(labels)
    tensors = {
        name: checkpoint.tensor(name, (end - first, len(labels), *view.shape[1:]), view.dtype)
        for name, view in one_view(len(job.classes or ()), coding).items()
    }
    progress = Progress(job.title, end - first, done)
    orders = published.orders(first + done)
    for number in range(done, end - first):
        into = {name: tensor[number] for name, tensor in tensors.items()}
        digest, right = published.convert(first + number, next(orders), coding, into)
        state["digests"].append(digest)
        state["right"] += right
        checkpoint.tick(lambda: state)
        progress.step()
    try:
        published.check_agreement(state["right"], views)
    except UserError:
        checkpoint.clear()  # a later run may find other labels in this folder
        raise
    job.images = views
    summary = {"views": views, "teacher_top1_on_views": 100 * state["right"] / views, "source": state["source"]}
    summary["bytes_per_view"] = sum(tensor[0, 0].nbytes for tensor in tensors.values())
    job.write_tensors(tensors, published.metadata(first, state["digests"], spec.coding.model_dump()), summary)
    checkpoint.clear()
