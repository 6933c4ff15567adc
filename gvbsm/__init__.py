"""gvbsm: dataset condensation by generalised backbone and statistical matching (G-VBSM, CVPR 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

if TYPE_CHECKING:
    from pathlib import Path

    from gvbsm.share.load import LabelledImages, LabelledViews

__version__ = "0.2.0"
__all__ = ["__version__", "load"]


@overload
def load(path: str | Path, split: Literal["train"] = "train", rest: Literal["mean", "mass"] = "mean") -> LabelledViews: ...


@overload
def load(path: str | Path, split: Literal["images", "test"], rest: Literal["mean", "mass"] = "mean") -> LabelledImages: ...


def load(
    path: str | Path, split: Literal["train", "images", "test"] = "train", rest: Literal["mean", "mass"] = "mean"
) -> LabelledViews | LabelledImages:
    """A published run (its folder `results/<dataset>/<run>`) or an exported folder as a PyTorch data set.

    Its `repr` says what it holds; a notebook shows its images too.

    Args:
        path: the folder, which is checked against what was written of it.
        split: "train": every labelled view, epoch after epoch (`LabelledViews`): view float32 (C,S,S), soft label
            float32 logits (K,), hard label float32 probabilities (K,). "images": the distilled images as they are, "test":
            the test images of a run (`LabelledImages`): image float32 (C,S,S), label int64 (). All are normalised
            as the run's networks saw them: its logits are of such inputs, and its students' accuracies. Test images that
            stay in files are looked for below GVBSM_DATA_ROOT, or data.
        rest: what stands for logits that were not stored: their "mean" (squared error), or an equal share of their
            probability, "mass" (KL divergence, DIST).

    Raises:
        gvbsm.errors.UserError: if anything is missing, damaged, or not of this format.
    """
    from gvbsm.share.load import load as load_here  # torch takes seconds to import; `import gvbsm` takes none

    return load_here(path, split, rest)
