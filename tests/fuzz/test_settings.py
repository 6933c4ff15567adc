"""Settings, specs, plans and results with changed values: they are taken, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from gvbsm import cli
from gvbsm.commands.compare import compare
from gvbsm.config.project import load_config
from gvbsm.config.studies import read_study
from gvbsm.errors import UserError
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import STAGES, planned_beside, read_plan
from gvbsm.pipeline.specs import read_spec
from gvbsm.store.code import PACKAGE
from gvbsm.store.plans import plan_file
from gvbsm.store.receipts import read_receipt, write_receipt
from tests.fuzz.mutations import VALUES, YAML_VALUES, altered, changed, changes_of_bytes, fuzz, succeeds_or_says_why

CONFIG = PACKAGE.parent / "config"
ROWS = {file.stem: file.read_bytes() for file in sorted((CONFIG / "datasets").glob("*.yaml"))}
RECIPES = {file.stem: file.read_bytes() for file in sorted((CONFIG / "recipes").glob("*.yaml"))}
STUDIES = [file.read_bytes() for file in sorted((PACKAGE.parent / "benchmarks" / "studies").glob("*/study.yaml"))]


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def dumped(raw: Any) -> bytes:
    return yaml.safe_dump(raw, allow_unicode=True).encode()


def files_of(originals: list[bytes]) -> st.SearchStrategy[bytes]:
    """Changed texts of some YAML files."""
    raw = [yaml.safe_load(content) for content in originals]
    values = altered(raw, YAML_VALUES).map(dumped)
    content = st.builds(changed, st.sampled_from(originals), changes_of_bytes())
    return st.one_of(values, content)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


DEEP = "[" * 100_000
LAUGHS = "l0: &l0 [x]\n" + "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 30))


@example(b"recover: {lr: 2026-13-45}")
@example(b"recover: {lr: 2026-02-28 25:61:61}")
@example(b"classes: !!int many")
@example(b"classes: !!bool many")
@example(b"classes: 0x_")
@example(b"? 0b_\n: 1")
@example(b"classes: " + b"9" * 5000)
@example(f"extends: digits\nclasses: {DEEP}".encode())
@example(b"extends: digits\nrecover: &a {lr: *a}")
@example(f"{LAUGHS}classes: *l29".encode())
@example(b"{}")
@example(b"extends: digits\nbackbones: [{name: [1]}]")
@example(b"extends: digits\nbackbones: [{name: {a: 1}}]")
@example(b"extends: digits\nevaluate: {students: [[convnet]]}")
@example(b'extends: digits\nbackbones: [{name: convnet, weights: "a\\0.pth"}]')
@fuzz(40)
@given(files_of(list(ROWS.values())))
def test_rows(folder, content):
    write(folder / "config" / "datasets" / "fuzz.yaml", content)
    succeeds_or_says_why(plan, "fuzz", 1)


@example("digits", b"backbones: [[convnet]]")
@example("digits", b"{}")
@fuzz(20)
@given(st.sampled_from(["digits", "cifar10", "imagenet"]), files_of(list(RECIPES.values())))
def test_recipes(folder, row, content):
    write(folder / "config" / "recipes" / "fuzz.yaml", content)
    succeeds_or_says_why(plan, row, 1, "fuzz")


def test_a_recipe_over_a_row_whose_label_is_a_list(folder):
    write(folder / "config" / "datasets" / "fuzz.yaml", b"extends: digits\nbackbones: [{name: convnet, label: [1]}]")
    write(folder / "config" / "recipes" / "fuzz.yaml", b"backbones: [convnet]")
    assert succeeds_or_says_why(plan, "fuzz", 1, "fuzz"), "the recipe's backbones replace the row's"


@example(f"targets: {DEEP}".encode())
@example(b"data_root: 2026-13-45")
@example(b"{}")
@fuzz(20)
@given(files_of([(CONFIG / "config.yaml").read_bytes()]))
def test_config(folder, content):
    write(folder / "config" / "config.yaml", content)
    succeeds_or_says_why(load_config)


@example(b"question: what\nruns: [fuzz.short/ipc1]\nrows: {short: &a {recover: *a}}")
@fuzz(20)
@given(files_of(STUDIES))
def test_studies(folder, content):
    write(folder / "benchmarks" / "studies" / "fuzz" / "study.yaml", content)
    succeeds_or_says_why(read_study, "fuzz")
    succeeds_or_says_why(plan, "fuzz.short", 1)


ARTIFACTS = [*plan("digits", 1), *plan("cifar10", 1, "edc")]
SPECS = list({artifact.stage: artifact.spec.json_object for artifact in ARTIFACTS}.values())
CHANGED_SPECS = altered(SPECS, VALUES)
JSON_TEXTS = st.one_of(
    st.builds(json.dumps, st.one_of(VALUES, CHANGED_SPECS, st.builds(lambda spec: {"name": "a", "spec": spec}, CHANGED_SPECS))),
    st.builds(changed, st.sampled_from([json.dumps(spec).encode() for spec in SPECS]), changes_of_bytes()).map(
        lambda content: content.decode(errors="surrogateescape")
    ),
)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["stage"])
def test_whole_specs_are_taken(spec):
    assert succeeds_or_says_why(read_spec, STAGES[spec["stage"]], json.dumps(spec))


@example(f'{{"stage": "recover", "seed": {DEEP}')
@example(DEEP)
@example(f'{{"stage": {"9" * 5000}}}')
@fuzz(66)
@given(JSON_TEXTS)
def test_specs(text):
    named = [name for name in STAGES if f'"stage": "{name}"' in text]
    for name in named or ["recover"]:
        succeeds_or_says_why(read_spec, STAGES[name], text)


@fuzz(20)
@given(st.sampled_from(sorted(STAGES)), JSON_TEXTS)
def test_the_command_of_a_stage(folder, name, text):
    """Its inputs are missing, so that it ends at once. A status, not an exception; nothing on stderr but one line."""
    if name != "prepare":
        succeeds_or_says_why(cli.main, [name, f"--spec={text}", "--out=out", "--device=cpu"])


PLANS = st.one_of(
    st.builds(lambda name, spec: json.dumps({"name": name, "spec": spec}), VALUES, st.one_of(VALUES, CHANGED_SPECS)), JSON_TEXTS
)


@example(DEEP)
@example('{"spec": ' * 100_000)
@example('["recover/a.safetensors", ' + DEEP)
@fuzz(40)
@given(PLANS)
def test_plans(folder, text):
    write(plan_file("0123456789"), text.encode(errors="surrogateescape"))
    assert not succeeds_or_says_why(read_plan, "0123456789")
    succeeds_or_says_why(planned_beside, "recover/a.safetensors")


SPREAD = {"mean": 50.0, "std": 1.0, "runs": [49.0, 51.0]}
PUBLISHED = {
    "dataset": "digits",
    "ipc": 1,
    "recipe": None,
    "images": 10,
    "key": ARTIFACTS[-1].spec.key,
    "students": {"convnet": {"top1": SPREAD, "top5": SPREAD, "best_top1": SPREAD, "ema": 0.5}},
    "baselines": {"random_soft": {"convnet": {"top1": SPREAD}}},
    "teachers": {"convnet": {"top1": 60.0}},
    "soft_labels": {"bytes": 10, "teacher_top1_on_views": 70.0},
    "cost": {"squeeze": {"jobs": 1, "seconds": 2.0}},
    "settings": {"squeeze": {"convnet": {"network": {"name": "convnet"}, "lr": 0.1}}, "recover": {"lr": 0.1}},
    "provenance": {"spec": ARTIFACTS[-1].spec.json_object, "artifacts": {}, "packages": {}},
}
OF_REPORT = [name for name in PUBLISHED if name not in ("provenance", "key")]


def test_a_whole_acc_json_is_compared(folder):
    write(folder / "acc.json", json.dumps(PUBLISHED).encode())
    assert succeeds_or_says_why(compare, [folder, folder])


def test_the_wrong_entry_of_an_acc_json_is_named(folder):
    wrong = PUBLISHED | {"students": {"convnet": {"top1": SPREAD | {"std": "1"}}}}
    write(folder / "acc.json", json.dumps(wrong).encode())
    with pytest.raises(UserError, match=r"got something else at 'students\.convnet\.top1\.std'; make it again with: .*rm -f "):
        compare([folder])


@example(DEEP.encode())
@example(json.dumps(PUBLISHED | {"students": {}}).encode())
@example(json.dumps(PUBLISHED | {"students": {"convnet": None}}).encode())
@example(json.dumps(PUBLISHED | {"baselines": {"random_soft": {}}}).encode())
@example(json.dumps(PUBLISHED | {"settings": {"squeeze": None}}).encode())
@fuzz(40)
@given(
    st.one_of(
        st.builds(
            lambda raw: json.dumps(PUBLISHED | raw).encode(), altered([{name: PUBLISHED[name] for name in OF_REPORT}], VALUES)
        ),
        st.builds(changed, st.just(json.dumps(PUBLISHED).encode()), changes_of_bytes()),
    )
)
def test_results(folder, content):
    write(folder / "acc.json", content)
    write(folder / "other" / "acc.json", json.dumps(PUBLISHED).encode())
    succeeds_or_says_why(compare, [folder, folder / "other"])


@fuzz(20)
@given(changes_of_bytes())
def test_receipts(folder, changes):
    artifact = Path("store") / "a.csv"
    write(artifact, b"epoch\n1\n")
    write_receipt(artifact, {"spec": SPECS[0], "inputs": {}, "summary": {}})
    receipt = artifact.with_suffix(".json")
    receipt.write_bytes(changed(receipt.read_bytes(), changes))
    succeeds_or_says_why(read_receipt, artifact)
