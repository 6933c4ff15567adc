"""Names that pictures, tables and pages share: of a run, and of what students are trained on."""

from __future__ import annotations

KINDS = {  # of what students are trained on, in the order of tables: images and labels
    "distilled": ("distilled", "soft"),
    "random_soft": ("random real", "soft"),
    "random_hard": ("random real", "hard"),
    "distilled_hard": ("distilled", "hard"),
}
JUDGE = "judge"  # beside a network's name: the share of the distilled images that it assigns to their class


def kind_name(kind: str) -> str:
    """One of `KINDS` in words: distilled, soft labels."""
    images, labels = KINDS[kind]
    return f"{images}, {labels} labels"


def run_title(dataset: str, ipc: int, recipe: str | None) -> str:
    """How a run is called: digits, 10 images per class, edc."""
    images = "image" if ipc == 1 else "images"
    return f"{dataset}, {ipc} {images} per class" + (f", {recipe}" if recipe else "")
