"""A run's pictures, each of made-up data: the right series, labels and positions, and equal bytes for equal data."""

import itertools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from gvbsm.pictures import accuracy, classes, curves, evolution, features
from gvbsm.pictures.figures import CLASS_COLOURS, DISTILLED, save, short_name
from gvbsm.pipeline import pictures as plan_pictures
from gvbsm.report import results
from gvbsm.stages import draw
from gvbsm.store.run import PICTURES


def texts(figure: Figure) -> str:
    return " | ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def curve_table(seeds: int = 2, kinds: tuple[str, ...] = ("distilled", "random_hard")) -> pd.DataFrame:
    rows = [
        {"student": student, "kind": kind, "seed": seed, "epoch": epoch, "loss": 1 / epoch, "top1": top1 + seed}
        for (kind, top1), student, seed, epoch in itertools.product(
            zip(kinds, (80.0, 60.0), strict=True), ("a", "b"), range(seeds), range(1, 5)
        )
    ]
    table = pd.DataFrame(rows)
    table.loc[table["epoch"] % 2 == 1, "top1"] = np.nan  # tested every second epoch
    return table


def test_curves_are_means_of_tested_epochs_with_a_band():
    figure = curves.draw("digits, 10 images per class", curve_table())
    above, _, below, _ = figure.axes
    distilled, hard = above.get_lines()
    assert list(distilled.get_xdata()) == [2, 4] and list(distilled.get_ydata()) == [80.5, 80.5]
    assert list(hard.get_ydata()) == [60.5, 60.5]
    assert list(below.get_lines()[0].get_xdata()) == [1, 2, 3, 4]
    band = above.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(80.5 - 0.5**0.5) and band.max() == pytest.approx(80.5 + 0.5**0.5)
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == [
        "distilled, soft labels",
        "random real, hard labels",
    ]
    shown = texts(figure)
    assert all(text in shown for text in ("student a", "student b", "epoch", "on test images, %", "of 2 seeds"))
    assert "one seed" in texts(curves.draw("x", curve_table(1)))


def class_table(count: int) -> pd.DataFrame:
    at = np.arange(count)
    columns = {"distilled_confidence": 99.0 - at, "real_confidence": 50.0 + 0 * at}
    columns |= {"distilled_diversity": 0.1 + 0 * at, "real_diversity": 0.3 + 0 * at}
    return pd.DataFrame({"name": [f"class {n}" for n in at], **columns})


def test_accuracies_of_runs_with_and_without_a_baseline():
    rows = [("d", 10, None, 60.0, 50.0), ("d", 10, "x", 61.0, np.nan), ("d", 50, "x", 70.0, np.nan)]
    table = pd.DataFrame(rows, columns=["dataset", "ipc", "recipe", "distilled", "random_soft"])
    table = table.assign(student="a", seeds=3, distilled_std=1.0, random_soft_std=np.nan, label_bytes=[10, 20, 30])
    by_run, against_ipc, against_bytes = accuracy.draw_accuracies(table).axes
    assert [label.get_text() for label in by_run.get_yticklabels()] == [
        "row's own, 10 per class",
        "x, 10 per class",
        "x, 50 per class",
    ]
    distilled, soft = by_run.containers
    assert (distilled.get_label(), soft.get_label()) == ("distilled, soft labels", "random real, soft labels")
    assert distilled.lines[0].get_xydata().tolist() == [[60, 0], [61, 1], [70, 2.6]], "a gap between IPCs"
    assert soft.lines[0].get_xydata()[0].tolist() == [50, 0] and pd.isna(soft.lines[0].get_xdata()[1:]).all()
    assert [line.get_label() for line in against_bytes.containers] == ["10 per class", "50 per class"]
    assert [line.get_label() for line in against_ipc.containers] == [
        "row's own",
        "x",
        "random real, soft labels (the best of all recipes)",
    ]
    assert list(against_ipc.containers[-1].lines[0].get_ydata()) == [50.0]


def test_accuracies_that_differ_in_nothing_else_are_one_panel_of_runs():
    rows = pd.DataFrame({"recipe": ["edc", "best"], "distilled": [75.9, 75.8], "label_bytes": [231_576, 231_480]})
    table = rows.assign(dataset="d", student="a", ipc=10, seeds=1, distilled_std=np.nan)
    figure = accuracy.draw_accuracies(table)
    (by_run,) = figure.axes
    assert [label.get_text() for label in by_run.get_yticklabels()] == ["edc", "best"]
    assert by_run.get_xlim()[1] - by_run.get_xlim()[0] == pytest.approx(2), "a tenth of a point is not drawn as a gulf"
    assert "one seed" in texts(figure) and "±" not in texts(figure)
    assert "mean ± std" in texts(accuracy.draw_accuracies(table.assign(seeds=3)))


def test_few_classes_have_a_row_each():
    figure = classes.draw("x", class_table(3), 2)
    left, right = figure.axes
    real, distilled = left.collections[1:]
    assert distilled.get_offsets().tolist() == [[99, 0], [98, 1], [97, 2]] and real.get_offsets()[:, 0].tolist() == [50] * 3
    assert [label.get_text() for label in left.get_yticklabels()] == ["class 0", "class 1", "class 2"]
    assert right.collections[2].get_offsets()[:, 0].tolist() == pytest.approx([0.1] * 3)
    assert all(text in texts(figure) for text in ("probability of the true class, %", "cosine distance", "mean of 2 teachers"))


def test_many_classes_are_points_and_the_furthest_have_names():
    figure = classes.draw("x", class_table(40), 1)
    left, _ = figure.axes
    assert left.collections[0].get_offsets()[0].tolist() == [50, 99] and left.get_xlabel().startswith("real")
    named = {text.get_text() for text in left.texts}
    assert named == {"class 0", "class 1", "class 2", "class 37", "class 38", "class 39"}
    assert "one teacher" in texts(figure)


def test_one_image_per_class_has_no_diversity():
    for count in (3, 40):
        table = class_table(count).assign(distilled_diversity=np.nan)
        assert "needs two distilled images per class" in texts(classes.draw("x", table, 1))


def seen(shift: float) -> features.Seen:
    """Two classes far apart; the distilled images lie in the middle of theirs."""
    generator = np.random.default_rng(0)
    real = np.concatenate([generator.normal(0, 1, (20, 5)), generator.normal(50, 1, (20, 5))]) + shift
    distilled = np.concatenate([np.zeros((3, 5)), np.full((3, 5), 50)]) + shift
    return features.Seen(distilled, np.repeat([4, 7], 3), real, np.repeat([4, 7], 20))


def test_features_are_coloured_by_class_and_formed_by_kind():
    figure = features.draw("x", {"teacher a": seen(0), "student b": seen(1)}, {4: "four", 7: "$seven"}, 12, 30, 0)
    assert "x, 2 of 12 classes" in texts(figure) and "perplexity 30" in texts(figure)
    assert [axes.get_title() for axes in figure.axes] == ["teacher a", "student b"]
    four_real, four_distilled, seven_real, seven_distilled = figure.axes[0].collections
    assert [len(points.get_offsets()) for points in figure.axes[0].collections] == [20, 3, 20, 3]
    assert (four_real.get_facecolor()[0, :3] == four_distilled.get_facecolor()[0, :3]).all()
    assert not (four_real.get_facecolor()[0, :3] == seven_real.get_facecolor()[0, :3]).all()
    assert len(four_real.get_paths()[0].vertices) != len(four_distilled.get_paths()[0].vertices)
    assert [text.get_text() for text in figure.axes[0].texts] == ["four", "$seven"]
    centre = {name: np.asarray(points.get_offsets()).mean(0) for name, points in (("4", four_real), ("7", seven_real))}
    for own, other, marks in (("4", "7", four_distilled), ("7", "4", seven_distilled)):
        at = np.asarray(marks.get_offsets()).mean(0)
        assert np.linalg.norm(at - centre[own]) < np.linalg.norm(at - centre[other])


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("tench, Tinca tinca", "tench"),
        ("electric_ray_of_the_sea", "electric_ray_…"),
        ("hammerhead shark", "hammerhead sh…"),
        ("exactly 14 it.", "exactly 14 it."),
        (", x", ", x"),
    ],
)
def test_names_of_classes_are_cut(name, short):
    figure = features.draw("x", {"a": seen(0)}, {4: name, 7: "seven"}, 2, 30, 0)
    assert [text.get_text() for text in figure.axes[0].texts] == [short, "seven"]
    assert short_name("x" * 21) == "x" * 19 + "…"


def test_the_embedding_repeats_and_takes_few_images():
    few = np.random.default_rng(0).normal(size=(5, 4))
    assert (features.embed(few, 30, 0) == features.embed(few, 30, 0)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_evolution_is_a_row_per_class_and_a_column_per_iteration(channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, channels, 8, 8), dtype=np.uint8)
    figure = evolution.draw("x", images, [0, 10, 4000], ["zero", "goldfish, Carassius"], 100)
    assert len(figure.axes) == 6
    assert [axes.get_title() for axes in figure.axes[:3]] == ["iteration 0", "10", "4,000"]
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["zero", "goldfish"]
    assert "2 of 100 classes" in texts(figure)
    shown = np.asarray(figure.axes[5].get_images()[0].get_array())
    assert (shown == (images[1, 2, 0] if channels == 1 else np.moveaxis(images[1, 2], 0, 2))).all()


def test_equal_data_give_equal_files():
    first, second = (save(curves.draw("digits, 10", curve_table(1)), "svg") for _ in range(2))
    assert first == second and "digits, 10" in first.decode() and b"<dc:date>" not in first


def test_ten_classes_have_ten_colours():
    assert len(set(CLASS_COLOURS)) == 10 and DISTILLED.startswith("#")


def test_every_picture_is_planned_drawn_and_described():
    """A picture that one of the four lists lacks would be missing there without a message."""
    names = set(plan_pictures._PICTURES)
    template = (Path(results.__file__).parent / "templates" / "pictures.html.j2").read_text()
    described = set(re.findall(r'^  "(\w+)": \(', template, re.MULTILINE))
    assert names == set(draw._CONTENT) == described == set(PICTURES)
