"""settings.yaml beside acc.json is a row that gives the same run again."""

from pathlib import Path

import pytest
import yaml

from gvbsm.pipeline.graph import plan

RUN = Path("results/tiny/ipc4")


def test_the_row_of_a_published_run_is_the_same_run(published_run):
    """The settings that the row extends are in it: nothing else is read."""
    text = (RUN / "settings.yaml").read_text()
    assert "extends" not in yaml.safe_load(text) and next(iter(yaml.safe_load(text))) == "source"
    for file in Path("config/datasets").glob("*.yaml"):
        file.unlink()
    Path("config/datasets/again.yaml").write_text(text)
    again = plan("again", 4)
    assert [artifact.path for artifact in again[:-1]] == [artifact.path for artifact in published_run[:-1]]


@pytest.mark.parametrize(
    ("row", "recipe"), [("digits", None), ("cifar10", "published"), ("imagenet", "edc"), ("tiny", "sre2l")]
)
def test_a_recipe_is_laid_into_the_row(row, recipe, workspace):
    from gvbsm.pictures.run_settings import row_text

    planned = plan(row, 2, recipe)
    Path("config/datasets/again.yaml").write_text(row_text(planned[-1].spec.row, row))
    assert [artifact.path for artifact in plan("again", 2)[:-1]] == [artifact.path for artifact in planned[:-1]]
