"""The card of an exported folder, README.md: what it is, from what, on what terms, how to read it and train on it."""

from __future__ import annotations

import re
import unicodedata

import yaml

from gvbsm.format import readable_seeds, readable_spread
from gvbsm.pipeline.convert import ConvertSpec
from gvbsm.pipeline.recover import RecoverSpec
from gvbsm.pipeline.registry import STAGES
from gvbsm.pipeline.relabel import RelabelSpec
from gvbsm.share.folder import CLASSES, SHARD, ExportedClass, Manifest, unique_names
from gvbsm.share.licences import Source
from gvbsm.share.run import PublishedRun
from gvbsm.store.spec import Json

_LISTED = 100  # classes that the card names; of more it says where they stand
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_KINDS = {
    "distilled": "these images, soft labels",
    "random_soft": "random real images, soft labels",
    "random_hard": "random real images, hard labels",
    "distilled_hard": "these images, hard labels",
}
_READING = {
    "imagefolder": """from torchvision.datasets import ImageFolder

images = ImageFolder("DIR/train")  # labels are those of this set: the folders sort as the labels do
image, label = images[0]
""",
    "webdataset": """import webdataset

images = webdataset.WebDataset(FILES, shardshuffle=False).decode("pil").to_tuple("png", "cls")
image, label = next(iter(images))  # by class: shuffle with a buffer of all images
""",
    "huggingface": """from datasets import load_dataset

images = load_dataset("DIR")["train"]  # features image and label, a ClassLabel
image, label = images[0]["image"], images[0]["label"]
""",
}
_TRAINING = """import gvbsm
import torch
from gvbsm.backbones.build import build
from gvbsm.method.losses import hard_loss, soft_loss
from torch.utils.data import DataLoader

data = gvbsm.load({load})  # views as gvbsm's students saw them: drawn anew from a seed, normalised
student = build({network})  # or any network
optimizer = {optimizer}
schedule = {schedule}
for epoch in range({epochs}):
    for view, soft_label, hard_label in DataLoader(data.epoch(epoch), batch_size={batch}):
        logits = student(view)
        loss = {loss}
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    schedule.step()
"""
_DECAYED = """[
    {"params": [weight for weight in student.parameters() if weight.ndim > 1]},
    {"params": [weight for weight in student.parameters() if weight.ndim <= 1], "weight_decay": 0.0},
]"""
_USUAL = {"ema": None, "accumulate": 1, "hard_label": "mixed", "precision": "float32"}  # as the code above does it
_UNSAID = ("test_every", "threads")  # what no accuracy depends on
_METHOD = """@inproceedings{shao2024generalized,
  title = {Generalized Large-Scale Data Condensation via Various Backbone and Statistical Matching},
  author = {Shao, Shitong and Yin, Zeyuan and Zhou, Muxin and Zhang, Xindong and Shen, Zhiqiang},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2024},
  note = {arXiv:2311.17950}
}
"""


def card(run: PublishedRun, manifest: Manifest, classes: list[ExportedClass], source: Source) -> str:
    """Markdown (UTF-8) with the YAML front matter that the Hugging Face Hub and `datasets` read."""
    title = f"{manifest.dataset}, {manifest.ipc} per class" + (f", {manifest.recipe}" if manifest.recipe else "")
    colour = "RGB" if manifest.channels == 3 else "grey"
    side, made_by = manifest.image_size, str(run.accuracies["provenance"]["packages"].get("gvbsm", ""))
    parts = [
        _front(manifest, classes, source, title),
        f"# {_plain(title)}: a distilled data set\n",
        f"{manifest.images:,} images of {side} x {side} px, {colour}, in {len(classes)} classes, that stand for a whole data "
        f"set when networks are trained. Made by gvbsm {_plain(made_by)}.\n",
        f"## What\n\n- Images: lossless PNG; {_made(run)}.\n- {_labels(run, manifest)}\n- {_classes(classes)}\n",
        f"## From what\n\n- Source: {_plain(source.title)}.\n- Terms of the source, under which what is made from it may fall "
        f"too: {_plain(source.licence)}.\n- To be cited: {_plain(source.citation)}\n",
        f"## Reading it\n\nPut the path of this folder for `DIR`.\n\n{_code(_reading(manifest))}",
        _training(run, manifest),
        f"## Accuracies\n\n{_accuracies(manifest)}",
        f"## Citation\n\nThe method that gvbsm builds on, beside the source above:\n\n```bibtex\n{_METHOD}```\n",
    ]
    return "\n".join(parts)


def _front(manifest: Manifest, classes: list[ExportedClass], source: Source, title: str) -> str:
    files = {"split": "train", "path": "train-*.tar" if manifest.form == "webdataset" else "train/**"}
    config: Json = {"config_name": "default", "data_files": [files]}
    if manifest.form == "huggingface":
        # Without it the labels of metadata.jsonl are mere integers.
        names = {str(one.label): name for one, name in zip(classes, unique_names(classes), strict=True)}
        label = {"name": "label", "dtype": {"class_label": {"names": names}}}
        config["features"] = [{"name": "image", "dtype": "image"}, label]
    front = {
        "license": source.identifier,
        "task_categories": ["image-classification"],
        "pretty_name": title,
        "size_categories": [next((name for most, name in _SIZES if manifest.images < most), "n>1M")],
        "tags": ["dataset-distillation", "dataset-condensation"],
        "configs": [config],
    }
    return f"---\n{yaml.dump(front, Dumper=_Dumper, sort_keys=False, width=10**6)}---\n"


class _Dumper(yaml.SafeDumper):
    """YAML in which no text ends a line or leaves ASCII, so that none ends the front matter."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if re.search(r"[^ -~]", text) else None)


_Dumper.add_representer(str, _quoted)


def _made(run: PublishedRun) -> str:
    """How the images came to be."""
    spec = run.spec(run.inputs.images[0])
    origin = STAGES[spec.stage].origin or f"made by gvbsm, in the stage {spec.stage}"
    is_begun = isinstance(spec, RecoverSpec) and spec.inputs.start
    return origin + ("; begun from real images of the source" if is_begun else "")


def _labels(run: PublishedRun, manifest: Manifest) -> str:
    if not manifest.labels:
        return "Soft labels: none. The teachers ran beside the students (`relabel.online`), and nothing of it was stored."
    specs = [spec for path in run.inputs.labels if isinstance(spec := run.spec(path), (RelabelSpec, ConvertSpec))]
    first = specs[0]
    is_ours = isinstance(first, RelabelSpec)
    coding = first.settings.coding if isinstance(first, RelabelSpec) else first.coding
    top = f", the {coding.top} largest of a view" if coding.top else ""
    who = f"of {', '.join(map(_plain, run.accuracies['teachers']))}" if is_ours else "published with the images by others"
    epochs, size = max(spec.epochs[1] for spec in specs), run.accuracies["soft_labels"]["bytes"]
    return (
        f"Soft labels: `labels/`, mean logits ({coding.values}{top}) {who} on {epochs} epochs of views, one view of each "
        f"image an epoch; {size:,} bytes. The format is docs/soft-labels.md of gvbsm; examples/read_soft_labels.py there reads "
        "it with numpy and torch alone."
    )


def _classes(classes: list[ExportedClass]) -> str:
    said = f"Classes: `{CLASSES}` has what identifies each, its name and its folder, in the order of the labels"
    if len(classes) > _LISTED:
        return f"{said}."
    return f"{said}: {', '.join(_plain(name) for name in unique_names(classes))}."


def _reading(manifest: Manifest) -> str:
    shards = -(-manifest.images // SHARD)
    files = f'"DIR/train-{{000000..{shards - 1:06d}}}.tar"' if shards > 1 else '"DIR/train-000000.tar"'
    return _READING[manifest.form].replace("FILES", files)


def _training(run: PublishedRun, manifest: Manifest) -> str:
    said = [f"- {_plain(name)}: {_settings(one)}" for name, one in manifest.training.items()]
    told = "How the students below were trained:\n\n" + "\n".join(said) + "\n"
    if not manifest.labels:
        return f"## Training on it\n\n{told}"
    first = next(iter(manifest.training.values()))
    left = [name for name, usual in _USUAL.items() if first["settings"].get(name) not in (None, usual)]
    but = f", but for its {', '.join(f'`{name}`' for name in left)}" if left else ""
    how = f"With gvbsm installed, as the first of the students below was trained{but}:"
    return f"## Training on it\n\n{how}\n\n{_code(_training_code(first))}\n{told}"


def _training_code(training: Json) -> str:
    network, settings = training["network"], training["settings"]
    shape = {name: network[name] for name in ("classes", "image_size", "channels")}
    arguments = ", ".join(
        [repr(network["name"]), *(f"{name}={value!r}" for name, value in {**shape, **network["options"]}.items())]
    )
    parameters = _DECAYED if settings["weight_decay"] else "student.parameters()"
    steps = f"{parameters}, lr={settings['lr']!r}, weight_decay={settings['weight_decay']!r}"
    optimizer = f"torch.optim.AdamW({steps})"
    if settings["optimizer"] == "sgd":
        optimizer = f"torch.optim.SGD({steps}, momentum={settings.get('momentum') or 0.0!r})"
    schedule = "torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1)"
    if settings["schedule"] == "cosine":
        most = (settings.get("stretch") or 1) * settings["epochs"]
        schedule = f"torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, {most!r})"
    loss = f"soft_loss(logits, soft_label, {settings['loss']!r}, {settings.get('temperature')!r})"
    # Of logits that were not kept, the squared error needs the mean, probabilities the mass.
    return _TRAINING.format(
        load='"DIR"' if settings["loss"] == "mse" else '"DIR", rest="mass"',
        network=arguments,
        optimizer=optimizer,
        schedule=schedule,
        epochs=settings["epochs"],
        batch=settings.get("batch_size") or "data.batch_size",
        loss=f"{loss} + {settings['hard_weight']!r} * hard_loss(logits, hard_label)",
    )


def _settings(training: Json) -> str:
    network = training["network"]
    options = [f"{name} {value}" for name, value in network["options"].items()]
    told = [f"{name} {value}" for name, value in training["settings"].items() if value is not None and name not in _UNSAID]
    return (
        f"{_plain(', '.join([network['name'], *options]))}; {_plain(', '.join(told))}; seeds {_plain(str(training['seeds']))}"
    )


def _accuracies(manifest: Manifest) -> str:
    """A table: a row per student, a column per image set and kind of label; then the teachers."""
    by_kind = {"distilled": manifest.accuracies["students"], **manifest.accuracies["baselines"]}
    kinds = [kind for kind in _KINDS if kind in by_kind]
    rows = ["| student | " + " | ".join(_KINDS[kind] for kind in kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for student in by_kind["distilled"]:
        found = [by_kind[kind][student]["top1"] for kind in kinds]
        rows.append(f"| {_plain(student)} | " + " | ".join(readable_spread(one["mean"], one["std"]) for one in found) + " |")
    teachers = ", ".join(f"{_plain(name)} {one['top1']:.2f}" for name, one in manifest.accuracies["teachers"].items())
    seeds = len(next(iter(by_kind["distilled"].values()))["top1"]["runs"])
    told = f"Top-1 accuracy on the source's test images, %: {readable_seeds(seeds)} of the student, last epoch."
    return "\n".join(rows) + f"\n\n{told} Teachers: {teachers}.\n"


def _code(text: str) -> str:
    return f"```python\n{text}```\n"


def _plain(text: str) -> str:
    """A text that Markdown and HTML show as it is: marks as entities, no line breaks, nothing that turns the writing around."""
    shown = "".join(" " if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") else one for one in text)
    return re.sub(r"[]&<>*_`[\\|~$@#{}]", lambda mark: f"&#{ord(mark[0])};", shown)
