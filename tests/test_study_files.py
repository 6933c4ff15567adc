"""Rows, variants and runs of a study.yaml."""

from pathlib import Path

import pytest
import yaml

from gvbsm.config.load import load_row, read_row
from gvbsm.config.messages import SettingsError
from gvbsm.config.origins import sourced_settings
from gvbsm.config.project import comparison, load_config
from gvbsm.pipeline.graph import plan_run

STUDY = {
    "question": "How many iterations?",
    "rows": {
        "few": {"extends": "tiny", "recover": {"iterations": 3}},
        "fewer": {"extends": "few", "recover": {"iterations": 2}},
        "tiny": {"extends": "tiny", "recover": {"iterations": 5}},
    },
    "variants": {
        "brisk": {"recover": {"lr": 0.5}},
        "brisker": {"extends": "brisk", "recover": {"lr": 0.75}},
        "short": {"extends": "short", "recover": {"lr": 0.125}},
    },
    "runs": ["few/ipc4", "fewer/ipc4-brisk", "tiny/ipc4-short", "digits/ipc10"],
}


@pytest.fixture
def study(workspace):
    def write(text: str | None = None, name: str = "steps", **changes) -> Path:
        file = Path(f"benchmarks/studies/{name}/study.yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text or yaml.safe_dump(STUDY | changes, sort_keys=False))
        return file

    write()
    return write


def test_a_row_of_a_study_extends_files_and_rows_and_has_the_studys_variants(study):
    assert load_row("steps.few").recover.iterations == 3
    assert load_row("steps.fewer").recover.iterations == 2
    assert load_row("steps.fewer", "brisker").recover.lr == 0.75
    assert load_row("steps.few", "edc").select is not None  # a recipe of config/


def test_a_section_may_have_the_name_of_the_file_that_it_extends(study):
    assert load_row("steps.tiny").recover.iterations == 5
    assert load_row("tiny").recover.iterations != 5
    own, shipped = load_row("steps.tiny", "short"), load_row("tiny", "short")
    assert own.recover.lr == 0.125 != shipped.recover.lr
    assert own.evaluate.students[0].evaluate.epochs == shipped.evaluate.students[0].evaluate.epochs


def test_a_study_extends_another(study):
    study(
        name="more",
        rows={"few": {"extends": "steps.few", "recover": {"lr": 0.5}}},
        variants={"a": {"extends": "steps.brisker"}},
    )
    row = load_row("more.few", "a").recover
    assert (row.iterations, row.lr) == (3, 0.75)


def test_variants_of_a_study_are_not_those_of_other_rows(study):
    study(name="tiny")  # the name of a row of config/datasets
    with pytest.raises(SettingsError, match=r"unknown recipe 'brisk'"):
        load_row("tiny", "brisk")


def test_a_study_is_a_comparison_whose_runs_can_be_planned(study):
    runs = comparison(load_config(), "steps")
    assert [str(run.folder) for run in runs] == [
        "results/steps.few/ipc4",
        "results/steps.fewer/ipc4-brisk",
        "results/steps.tiny/ipc4-short",
        "results/digits/ipc10",
    ]
    assert plan_run(runs[0])[-1].stage == "publish"


def test_a_setting_of_a_study_has_its_line(study):
    file = study("question: Q\nrows:\n  few:\n    extends: tiny\n    recover: {iterations: 3}  # so few\nruns: [few/ipc4]\n")
    (setting,) = [setting for setting in sourced_settings(*read_row("steps.few")) if setting.name == "recover.iterations"]
    assert (setting.value, setting.file.resolve(), setting.line, setting.comment) == (3, file.resolve(), 5, "so few")


@pytest.mark.parametrize(
    ("changes", "row", "message"),
    [
        ({}, "steps.fe", r"unknown data set 'steps\.fe'; did you mean 'steps\.few'\? choose from .*tiny.*steps\.few"),
        ({}, "stps.few", r"unknown data set 'stps\.few'"),
        ({"rows": {"few": {"extends": "fw"}}}, "steps.few", r"study\.yaml: rows\.few: extends: unknown data set 'fw'"),
        (
            {"rows": {"few": {"extends": "fewer"}, "fewer": {"extends": "few"}}},
            "steps.few",
            r"study\.yaml: rows\.few: extends itself by way of few -> fewer -> few; remove one extends",
        ),
        (
            {"rows": {"few": {"extends": "tiny", "recover": {"iteratons": 3}}}},
            "steps.few",
            r"study\.yaml: rows\.few: recover: unknown setting 'iteratons'; did you mean 'iterations'\?",
        ),
        ({"questions": "Q"}, "steps.few", r"study\.yaml: unknown setting 'questions'; did you mean 'question'\?"),
        ({"runs": []}, "steps.few", r"study\.yaml: runs: expected at least 1 item"),
    ],
)
def test_what_is_wrong_with_a_study_is_said_with_its_file_and_section(study, changes, row, message):
    study(**changes)
    with pytest.raises(SettingsError, match=message):
        load_row(row)


def test_a_run_of_another_form_is_said_with_the_study(study):
    study(runs=["few/ip4"])
    with pytest.raises(SettingsError, match=r"study\.yaml: runs: run 'ip4': expected ipc<N>"):
        comparison(load_config(), "steps")


def test_a_misspelt_study_is_corrected(study):
    with pytest.raises(
        SettingsError, match=r"results/stpes/compare\.csv: expected the runs to compare, got none; did you mean 'steps'\?"
    ):
        comparison(load_config(), "stpes")
