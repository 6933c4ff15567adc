"""The parts of the page that say how a run was made: settings and their sources, cost, provenance."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from gvbsm.config.messages import SettingsError
from gvbsm.config.origins import Setting, legend, sourced_settings
from gvbsm.format import readable_bytes, readable_seconds
from gvbsm.pictures.run_settings import flat, settings_of
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.publish import PublishSpec
from gvbsm.pipeline.registry import STAGES
from gvbsm.report.markup import Content, Markup, folded, joined, lines, name_of, section, table, tag, terms
from gvbsm.store.run import Cost, Published

_HEAD = ["setting", "value", "source"]


def settings_section(published: Published) -> Markup:
    """Every setting with the file, line and comment it comes from; if the files are gone, as acc.json has them."""
    accuracies = published.accuracies
    try:
        found = sourced_settings(accuracies["dataset"], accuracies["recipe"])
        differing = _differing(published)
    except SettingsError as error:
        why = f"The files in config/ do not give this run any more, so that these have no sources: {error}"
        rows = [(name_of(name), _shown(value)) for name, value in flat(accuracies.get("settings", {})).items()]
        return section(
            "settings", "Settings", tag("p", why, class_="note"), table("As published.", _HEAD[:2], {"": rows}, kind="settings")
        )
    parts: list[Content] = [_where(published, found)]
    if "settings" not in accuracies:
        parts.append(tag("p", "Published before acc.json held settings: the tables show what config/ says now.", class_="note"))
    elif differing:
        changed = "config/ has been changed since this run was published. The tables show what it says now; published was:"
        parts.append(
            tag(
                "div",
                tag("p", changed),
                table("What differs.", ["setting", "published", "now"], {"": differing}),
                class_="note",
            )
        )
    groups: dict[str, list[Setting]] = {}
    for setting in found:
        first = setting.name.partition(".")[0].partition("[")[0]
        groups.setdefault("data" if first in ("source", setting.name) else first, []).append(setting)
    for name, settings in groups.items():
        parts += [tag("h3", name), table(None, _HEAD, {"": map(_row, settings)}, kind="settings"), Markup("\n")]
    return section("settings", "Settings", *parts)


def _differing(published: Published) -> list[list[Content]]:
    """What the files in config/ say otherwise than was published: name, published, now."""
    accuracies = published.accuracies
    planned = plan(accuracies["dataset"], accuracies["ipc"], accuracies["recipe"])
    specs = {artifact.path: artifact.spec for artifact in planned}
    target = next(artifact.spec for artifact in planned if isinstance(artifact.spec, PublishSpec))
    needed = {path: specs[path] for path in target.input_paths()}
    now = settings_of(needed, target.inputs.teachers, target.inputs.students)
    headline = published.accuracies["provenance"]["spec"].get("headline")
    before = flat(accuracies.get("settings", {})) | {"evaluate.headline": headline}
    after = flat(json.loads(json.dumps(now))) | {"evaluate.headline": target.headline}
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    return [[name_of(name), _shown(before.get(name)), _shown(after.get(name))] for name in names]


def _where(published: Published, found: list[Setting]) -> Markup:
    """Which files the settings are from, and what these say their comments mean."""
    ipc = f"{published.accuracies['ipc']} images per class: the name of the target, {published.target}."
    files = [
        tag("li", tag("code", _name(file)), f": {legend(file)}" if legend(file) else None)
        for file in dict.fromkeys(setting.file for setting in found)
    ]
    about = (
        "A setting's source is the comment on its line; the file and the line stand below it. What is not named is off. "
        "config/config.yaml says which runs are made and where data sets are: no setting is from there."
    )
    return joined(tag("p", about), tag("ul", tag("li", ipc), lines(files)))


def _row(setting: Setting) -> list[Content]:
    at = f"{_name(setting.file)}:{setting.line}" if setting.line else _name(setting.file)
    return [
        name_of(setting.name),
        _shown(setting.value),
        joined(setting.comment or None, tag("div", name_of(at), class_="where")),
    ]


def _name(file: Path) -> str:
    """config/<folder>/<name>.yaml, wherever that folder is."""
    return "/".join(file.parts[-3:])


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (dict, list)):
        return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True).strip()
    return "off" if value is None else json.dumps(value)


def cost_section(published: Published) -> Markup:
    """What every stage took."""
    stages = published.accuracies["cost"]
    order = sorted(stages, key=lambda name: list(STAGES).index(name) if name in STAGES else len(STAGES))
    rows = [(name, *_cost(stages[name])) for name in order]
    sums: Cost = {
        "jobs": sum(stage["jobs"] for stage in stages.values()),
        "seconds": sum(stage["seconds"] for stage in stages.values()),
    }
    if all("bytes" in stage for stage in stages.values()):
        sums["bytes"] = sum(stage.get("bytes", 0) for stage in stages.values())
    caption = (
        "Over all jobs of a stage: time, images (counted as often as they went through), size of what is stored; memory is the "
        "most that one job had. Jobs that several runs share count in each."
    )
    head = ["stage", "jobs", "time", "images", "images/s", "stored", "memory", "GPU memory"]
    return section("cost", "Cost", table(caption, head, {"": rows}, numbers=range(1, 8), foot=["all", *_cost(sums)]))


def _cost(stage: Cost) -> list[Content]:
    images = f"{stage['images']:,}" if "images" in stage else None
    rate = f"{stage['images_per_second']:,.0f}" if stage.get("images_per_second") else None
    sizes = [stage.get("bytes"), stage.get("peak_memory_bytes"), stage.get("peak_device_memory_bytes")]
    shown = [readable_bytes(size) if size else None for size in sizes]
    return [f"{stage['jobs']:,}", readable_seconds(stage["seconds"]), images, rate, *shown]


def provenance_section(published: Published) -> Markup:
    """What computed it, and how to do so again."""
    provenance = published.accuracies["provenance"]
    packages, revision = provenance["packages"], provenance.get("git")
    said: Content = "not known"
    if revision:
        dirty = " with changes that were not committed" if revision.endswith("-dirty") else None
        said = joined(tag("code", revision.removesuffix("-dirty")), dirty)
    facts: list[tuple[Content, Content]] = [
        ("Key of the run", tag("code", published.accuracies["key"])),
        ("gvbsm", packages.get("gvbsm")),
        ("Revision of its code", said),
        ("Python", provenance.get("python")),
        ("Machine", provenance.get("machine")),
        ("Devices", ", ".join(provenance.get("devices", []))),
        ("Packages", ", ".join(f"{name} {version}" for name, version in packages.items() if name != "gvbsm")),
    ]
    artifacts = [(name_of(path), tag("code", digest)) for path, digest in provenance["artifacts"].items()]
    caption = "In results/store/, with the SHA-256 of the content. The ten digits in a name are the key of all that decides it."
    return section(
        "provenance",
        "Provenance",
        terms(facts, "pairs"),
        tag("h3", "To make it again"),
        tag("pre", tag("code", _commands(published, packages, revision)), tabindex=0),
        folded(f"All {len(artifacts)} artifacts", table(caption, ["artifact", "SHA-256"], {"": artifacts})),
    )


def _commands(published: Published, packages: dict[str, str], revision: str | None) -> str:
    """From a clone of the project, with the versions of what computed."""
    pinned = " ".join(shlex.quote(f"{name}=={version}") for name, version in packages.items() if name != "gvbsm")
    checkout = [f"git checkout {shlex.quote(revision.removesuffix('-dirty'))}"] if revision else []
    return "\n".join([*checkout, f"pip install -e . {pinned}", f"snakemake --cores all {shlex.quote(published.target)}"])
