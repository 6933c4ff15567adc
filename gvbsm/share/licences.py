"""Where the known data sets come from and on what terms; what their authors do not say is said to be not stated."""

from __future__ import annotations

from typing import NamedTuple

_NON_COMMERCIAL = (
    "ImageNet's terms of access: non-commercial research and educational purposes only (https://image-net.org/download)"
)
# Identifiers that the Hugging Face Hub knows and that people give most often; any other text is "other" there.
_IDENTIFIERS = ("apache-2.0", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-sa-4.0", "cc0-1.0", "mit")


class Source(NamedTuple):
    """A data set as its card names it."""

    title: str
    licence: str  # terms, in words
    identifier: str  # of the licence on the Hugging Face Hub
    citation: str


_IMAGENET = Source(
    "ImageNet (ILSVRC 2012)",
    _NON_COMMERCIAL,
    "other",
    "O. Russakovsky et al. ImageNet Large Scale Visual Recognition Challenge. International Journal of Computer Vision, 2015.",
)
_KRIZHEVSKY = (
    "A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. Technical report, University of Toronto, 2009."
)
_SOURCES = {
    "digits": Source(
        "Optical Recognition of Handwritten Digits (UCI Machine Learning Repository), as scikit-learn ships it",
        "CC BY 4.0",
        "cc-by-4.0",
        "E. Alpaydin and C. Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998.",
    ),
    "cifar10": Source("CIFAR-10", "not stated by its authors", "unknown", _KRIZHEVSKY),
    "cifar100": Source("CIFAR-100", "not stated by its authors", "unknown", _KRIZHEVSKY),
    "tiny_imagenet": Source(
        "Tiny ImageNet",
        f"none of its own stated; its images are ImageNet's. {_NON_COMMERCIAL}",
        "other",
        "Y. Le and X. Yang. Tiny ImageNet Visual Recognition Challenge. CS 231N, Stanford University, 2015. "
        + _IMAGENET.citation,
    ),
    "imagenet": _IMAGENET,
    "imagefolder": Source("images of the person who ran this", "not stated", "unknown", "not stated"),
}


def source_of(kind: str, licence: str | None) -> Source:
    """The source of a kind (`source.kind` of a row); `licence`, in words, stands instead of what is known of its terms."""
    source = _SOURCES.get(kind, Source(kind, "not stated", "unknown", "not stated"))
    if not licence:
        return source
    identifier = licence.strip().lower().replace(" ", "-")
    return source._replace(licence=licence, identifier=identifier if identifier in _IDENTIFIERS else "other")
