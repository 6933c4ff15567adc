"""Subsets of ImageNet: their classes by name or as WordNet ids, and the archives that fast.ai publishes them in."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from gvbsm.config.bounds import text_like
from gvbsm.config.messages import did_you_mean

WORDNET_ID = r"n[0-9]{8}"

# imagenette, imagewoof: fast.ai's ten classes each (https://github.com/fastai/imagenette; torchvision.datasets.Imagenette has
# the first ten, too). imagenet100: imagenet100.txt of https://github.com/HobbitLong/CMC at bc687a2 (arXiv 1906.05849), the list
# that later work takes over.
SUBSETS = {
    "imagenette": [
        *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),
        *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
    ],
    "imagewoof": [
        *("n02086240", "n02087394", "n02088364", "n02089973", "n02093754"),
        *("n02096294", "n02099601", "n02105641", "n02111889", "n02115641"),
    ],
    "imagenet100": [
        *("n01558993", "n01692333", "n01729322", "n01735189", "n01749939", "n01773797", "n01820546", "n01855672"),
        *("n01978455", "n01980166", "n01983481", "n02009229", "n02018207", "n02085620", "n02086240", "n02086910"),
        *("n02087046", "n02089867", "n02089973", "n02090622", "n02091831", "n02093428", "n02099849", "n02100583"),
        *("n02104029", "n02105505", "n02106550", "n02107142", "n02108089", "n02109047", "n02113799", "n02113978"),
        *("n02114855", "n02116738", "n02119022", "n02123045", "n02138441", "n02172182", "n02231487", "n02259212"),
        *("n02326432", "n02396427", "n02483362", "n02488291", "n02701002", "n02788148", "n02804414", "n02859443"),
        *("n02869837", "n02877765", "n02974003", "n03017168", "n03032252", "n03062245", "n03085013", "n03259280"),
        *("n03379051", "n03424325", "n03492542", "n03494278", "n03530642", "n03584829", "n03594734", "n03637318"),
        *("n03642806", "n03764736", "n03775546", "n03777754", "n03785016", "n03787032", "n03794056", "n03837869"),
        *("n03891251", "n03903868", "n03930630", "n03947888", "n04026417", "n04067472", "n04099969", "n04111531"),
        *("n04127249", "n04136333", "n04229816", "n04238763", "n04336792", "n04418357", "n04429376", "n04435653"),
        *("n04485082", "n04493381", "n04517823", "n04589890", "n04592741", "n07714571", "n07715103", "n07753275"),
        *("n07831146", "n07836838", "n13037406", "n13040303"),
    ],
}


class Archive(NamedTuple):
    """One of fast.ai's archives."""

    md5: str
    training_images: int


_FASTAI = "https://s3.amazonaws.com/fast-ai-imageclas/"
_NETTE, _WOOF = 9469, 9025  # training images
# MD5 sums of ImageNette: torchvision 0.29, torchvision.datasets.Imagenette. Those of ImageWoof are from public data loaders
# whose sums of ImageNette are torchvision's. (The sums in fastai's own checks.txt are of each file's first MiB alone.)
ARCHIVES = {
    "imagenette2.tgz": Archive("fe2fc210e6bb7c5664d602c3cd71e612", _NETTE),
    "imagenette2-320.tgz": Archive("3df6f0d01a2c9592104656642f5e78a3", _NETTE),
    "imagenette2-160.tgz": Archive("e793b78cc4c9e9a4ccc0c1155377a412", _NETTE),
    "imagewoof2.tgz": Archive("9aafe18bcdb1632c4249a76c458465ba", _WOOF),
    "imagewoof2-320.tgz": Archive("0f46d997ec2264e97609196c95897a44", _WOOF),
    "imagewoof2-160.tgz": Archive("3d200a7be99704a0d7509be2a9fbfe15", _WOOF),
}


def url_of(archive: str) -> str:
    """Where fast.ai publishes an archive."""
    return _FASTAI + archive


def archive_of(path: str) -> Archive | None:
    """fast.ai's archive that a path names, or that has been unpacked there; None for other paths."""
    return next((archive for name, archive in ARCHIVES.items() if {name, name[:-4]} & set(PurePath(path).parts)), None)


def _by_name(classes: Any) -> Any:
    if not isinstance(classes, str):
        return classes
    if classes not in SUBSETS:
        hint = did_you_mean(classes, SUBSETS)
        raise ValueError(f"unknown subset {classes!r}; {hint}choose from {', '.join(SUBSETS)}, or list WordNet ids")
    return list(SUBSETS[classes])


def _sorted(ids: list[str]) -> list[str]:
    """In the order of labels, so that another order in the file changes no key."""
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice:
        raise ValueError(f"expected every class once, got {twice} more often; remove it")
    return sorted(ids)


_TEXTS = {"type": "array", "minItems": 2, "items": {"type": "string", "pattern": f"^{WORDNET_ID}$"}}
Classes = Annotated[
    list[Annotated[str, *text_like(WORDNET_ID, "a WordNet id such as n01440764")]],
    BeforeValidator(_by_name),
    AfterValidator(_sorted),
    WithJsonSchema({"anyOf": [_TEXTS, {"type": "string", "enum": list(SUBSETS)}]}),
]
"""The classes of a subset as sorted WordNet ids; written as a list of them, or as a name of `SUBSETS`."""
