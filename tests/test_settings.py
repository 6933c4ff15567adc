"""Every setting has a meaning and bounds; the schemas take what is shipped and refuse what is misspelt."""

import copy

import jsonschema
import pytest
import yaml

from gvbsm.commands.settings import refreshed
from gvbsm.config.load import load_row
from gvbsm.config.schema import SCHEMAS, schema
from gvbsm.config.tables import sections
from gvbsm.config.yaml_files import read_yaml
from gvbsm.store.code import PACKAGE

CONFIG = PACKAGE.parent / "config"
ROWS = sorted(CONFIG.glob("*/*.yaml"))
ENTRIES = {f"{section.name}.{entry.name}": entry for section in sections().values() for entry in section.entries}
UNBOUNDED = {"row.mean"}  # any mean of pixels is a number that training stands


def is_valid(name, raw):
    return jsonschema.Draft7Validator(schema(name)).is_valid(raw)


def test_every_section_of_a_row_is_described():
    def names(model, above):
        for name, value in model.items():
            yield f"{above or 'row'}.{name}"
            if isinstance(value, dict) and name not in ("options", "source"):
                yield from names(value, f"{above}.{name}".lstrip("."))

    row = load_row("cifar10", "edc").model_dump()
    row["backbones"] = row["evaluate"]["students"] = []
    assert set(names(row, "")) <= ENTRIES.keys()


@pytest.mark.parametrize("name", ENTRIES)
def test_a_setting_has_a_meaning_and_a_number_has_bounds(name):
    entry = ENTRIES[name]
    assert entry.meaning[-1] in ".)" and len(entry.meaning) < 200, entry
    if "number" in entry.kind and name not in UNBOUNDED:
        assert any(word in entry.bounds for word in (" to ", "above", "at least")), entry
    assert "choice" not in entry.kind or entry.bounds


def test_bounds_and_units_in_words():
    entries = [ENTRIES[name] for name in ("recover.roll", "recover.betas", "recover.conv_statistics", "squeeze.seed")]
    assert [(entry.kind, entry.bounds, entry.unit) for entry in entries] == [
        ("whole number", "0 to 1,024", "px"),
        ("list of numbers", "2 entries, each at least 0, below 1", ""),
        ("list of choices", "1 or more entries, each of channel, patch", ""),
        ("whole number", "0 to 2,147,483,647", ""),
    ]
    assert ENTRIES["augment.pad"].kind == "whole number or null" and ENTRIES["augment.pad"].unit == "px"
    assert ENTRIES["source.kind"].bounds == "digits, cifar10, cifar100, tiny_imagenet, imagefolder, imagenet"


def test_tables_and_schemas_are_those_of_the_program():
    """And every setting is in one table: `refreshed` raises an error otherwise."""
    files = refreshed(CONFIG)
    assert {*files} == {*CONFIG.rglob("*.md"), *CONFIG.glob("schema/*.json")}
    stale = [str(path) for path, text in files.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run: python -m gvbsm settings --refresh config"


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_schemas(name):
    jsonschema.Draft7Validator.check_schema(schema(name))


STUDIES = sorted((CONFIG.parent / "benchmarks" / "studies").glob("*/study.yaml"))


@pytest.mark.parametrize("path", [*ROWS, CONFIG / "config.yaml", *STUDIES], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_is_shipped_fits_its_schema(path):
    name = path.stem if path.stem in SCHEMAS else "row"
    at = {"config": "schema", "row": "../schema", "study": "../../../config/schema"}[name]
    assert path.read_text(encoding="utf-8").startswith(f"# yaml-language-server: $schema={at}/{name}.json\n")
    assert (path.parent / at / f"{name}.json").is_file()
    jsonschema.validate(read_yaml(path), schema(name), cls=jsonschema.Draft7Validator)


@pytest.mark.parametrize("section", ["rows", "variants"])
def test_a_misspelt_setting_in_a_study_does_not_fit(section):
    study = {"question": "Q", "runs": ["few/ipc1"], section: {"few": {"extends": "tiny", "recover": {"iterations": 3}}}}
    assert is_valid("study", study)
    study[section]["few"]["recover"] = {"iteratons": 3}
    assert not is_valid("study", study)


PARTS = {
    "nothing": ("{}", True),
    "a part of a source": ("source: {version: 2}", True),
    "a network as an object": ("backbones: [resnet18, {name: convnet, options: {width: 4}, squeeze: {lr: 0.1}}]", True),
    "sections that are off": ("{select: null, distilled: null, relabel: {epochs: null, coding: {top: null}}}", True),
    "a student of its own": ("evaluate: {students: [{name: convnet, evaluate: {epochs: 3}}]}", True),
    "a misspelt section": ("recovr: {lr: 0.1}", False),
    "a misspelt setting": ("recover: {ema: {momentun: 0.1}}", False),
    "a misspelt setting of a network": ("backbones: [{name: convnet, sqeeze: {lr: 0.1}}]", False),
    "a network without a name": ("backbones: [{label: a}]", False),
    "a number in quotes": ("squeeze: {epochs: '5'}", False),
    "a value out of range": ("squeeze: {epochs: 0}", False),
    "another choice": ("recover: {quantise: floor}", False),
    "a setting that is never off": ("recover: null", False),
    "another kind of source": ("source: {kind: mnist}", False),
    "extends is a list": ("extends: [digits]", False),
}


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_rows(part):
    text, is_right = PARTS[part]
    assert is_valid("row", yaml.safe_load(text)) == is_right


def test_a_misspelt_setting_of_config():
    raw = read_yaml(CONFIG / "config.yaml")
    misspelt = copy.deepcopy(raw) | {"target": raw["targets"]}
    assert is_valid("config", raw) and not is_valid("config", misspelt)
    assert not is_valid("config", {"targets": raw["targets"]}), "data_root is missing"
