"""select: which real images a recovery starts from, and what becomes of them."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from gvbsm.config.load import load_row
from gvbsm.config.messages import SettingsError
from gvbsm.errors import UserError
from gvbsm.pipeline.graph import plan
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.stages import select
from gvbsm.store.files import file_hash, load_tensors
from gvbsm.store.job import Job
from gvbsm.store.plans import STORE
from tests.tiny import ONE_STUDENT

RANDOM = {"choose": "random", "candidates": 1, "crops": 1, "scale": [1.0, 1.0], "cells": 1, "seed": 0}
RANDOM |= {"threads": 1, "precision": "float32"}


def selected(planned) -> dict[tuple[int, int], tuple[torch.Tensor, list[int]]]:
    """Every chosen image with the training images it is of, by class and number."""
    images = {}
    for artifact in planned:
        if artifact.stage == "select":
            tensors, _ = load_tensors(STORE / artifact.path)
            names = ("images", "sources", "labels", "numbers")
            for image, sources, label, number in zip(*(tensors[name] for name in names), strict=True):
                images[int(label), int(number)] = image, sources.tolist()
    return images


def training_set(planned) -> tuple[torch.Tensor, torch.Tensor]:
    tensors, _ = load_tensors(STORE / planned[0].path)
    return tensors["train_images"], tensors["train_labels"]


def watch(monkeypatch, name: str) -> list:
    """What a function of `select` gives, call by call."""
    given, function = [], getattr(select, name)

    def watched(*arguments):
        given.append(function(*arguments))
        return given[-1]

    monkeypatch.setattr(select, name, watched)
    return given


def test_random_images_are_training_images_of_their_class_and_more_only_add_some(published_run, edit_row, make_up_to):
    edit_row({"select": RANDOM})
    few, many = make_up_to("select"), make_up_to("select", 6)
    images, labels = training_set(few)
    chosen = selected(many)
    assert len({sources[0] for _, sources in chosen.values()}) == 60
    for (label, _), (image, sources) in chosen.items():
        assert labels[sources[0]] == label and torch.equal(images[sources[0]], image)
    assert all(torch.equal(image, chosen[place][0]) for place, (image, _) in selected(few).items())


def test_cells_hold_shrunk_images_row_by_row(published_run, edit_row, make_up_to):
    edit_row({"select": RANDOM | {"cells": 2}})
    planned = make_up_to("select")
    images, _ = training_set(planned)
    for image, sources in selected(planned).values():
        small = F.avg_pool2d(images[sources].float(), 2).round().byte()
        assert torch.equal(image, torch.cat([torch.cat(list(small[row : row + 2]), 2) for row in (0, 2)], 1))


def test_crops_have_the_ratio_of_the_settings(published_run, edit_row, make_up_to, monkeypatch):
    """[1, 1]: squares, as RDED's; off: 3/4 to 4/3, and no part of a key."""
    drawn, keys = watch(monkeypatch, "draw_crops"), []
    edit_row({"select": RANDOM | {"crops": 3, "scale": [0.3, 0.9]}})
    for ratio in ([1.0, 1.0], None):
        edit_row({"select": {"ratio": ratio}})
        keys.append([artifact.key for artifact in make_up_to("select") if artifact.stage == "select"])
        _, _, height_N, width_N = torch.cat(drawn).unbind(1)
        assert len(width_N.unique()) > 1 and torch.equal(height_N, width_N) == (ratio is not None)
        assert ((width_N / height_N).log().abs() < 0.7).all()  # on 8 px, rounded from at most .29
        drawn.clear()
    assert keys[0] != keys[1]
    text = Path("config/datasets/tiny.yaml").read_text()
    assert "ratio: null" in text
    Path("config/datasets/tiny.yaml").write_text(text.replace("  ratio: null\n", ""))
    assert [artifact.key for artifact in plan("tiny", 4) if artifact.stage == "select"] == keys[1]


def test_cells_are_dealt_by_rank(published_run, edit_row, make_up_to, monkeypatch):
    """Of the eight surest crops of a class, its first image has the ranks 0, 2, 4 and 6, its second the others."""
    edit_row({"select": RANDOM | {"choose": "confidence", "candidates": 3, "cells": 2}})
    candidates, ranks = watch(monkeypatch, "_candidates"), watch(monkeypatch, "by_loss")
    planned = make_up_to("select", 2)
    assert len(candidates) == len(ranks) == 10
    expected = {
        frozenset(int(candidates_N[rank_N[rank]]) for rank in range(first, 8, 2)): first
        for candidates_N, rank_N in zip(candidates, ranks, strict=True)
        for first in range(2)
    }
    assert expected == {frozenset(sources): number for (_, number), (_, sources) in selected(planned).items()}


@pytest.mark.parametrize("choose", ["confidence", "medium", "hard", "clusters", "margin"])
def test_teachers_choose_among_the_candidates_of_a_place(choose, published_run, edit_row, make_up_to):
    edit_row({"select": RANDOM | {"choose": choose, "candidates": 6}})
    planned = make_up_to("select")
    chosen = selected(planned)
    _, labels = training_set(planned)
    first_candidates = set()  # what would be chosen without the teachers
    for artifact in planned:
        for label, first, end in (
            (group for batch in artifact.spec.batches for group in batch) if artifact.stage == "select" else ()
        ):
            candidates = select._candidates(labels, label, first, end, artifact.spec.settings).tolist()
            assert len(candidates) == 6 * (end - first)
            assert {chosen[label, place][1][0] for place in range(first, end)} <= set(candidates)
            first_candidates |= set(candidates[: end - first])
    assert all(labels[sources[0]] == label for (label, _), (_, sources) in chosen.items())
    assert len({sources[0] for _, sources in chosen.values()}) == 40
    assert {sources[0] for _, sources in chosen.values()} != first_candidates


@pytest.mark.parametrize("choose", ["clusters", "margin", "confidence", "random"])
def test_features_are_those_of_the_best_crops_and_kept_for_choices_that_read_them(choose):
    from gvbsm.config.images import Select
    from gvbsm.config.shapes import PixelForm
    from gvbsm.data.pixels import Pixels
    from gvbsm.training.networks import features_of

    torch.manual_seed(0)
    teachers = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8**2, 5), torch.nn.Linear(5, 4)).eval()]
    pixels = Pixels(PixelForm(image_size=8, mean=[0.5] * 3, std=[0.5] * 3), torch.device("cpu"))
    settings = Select.model_validate(RANDOM | {"choose": choose, "crops": 4, "scale": [0.3, 0.9]})
    images = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
    with torch.inference_mode():
        crops = select._best_crops(images, 7, 2, teachers, pixels, settings)
        logits, features = features_of(teachers[0], pixels.from_bytes(crops.small_NCss), "float32")
    torch.testing.assert_close(crops.loss_N, F.cross_entropy(logits, torch.full((3,), 2), reduction="none"))
    assert len(crops.features) == (choose in ("clusters", "margin"))
    for kept in crops.features:
        torch.testing.assert_close(kept, features)


@pytest.mark.parametrize("choose", ["confidence", "medium", "hard"])
def test_images_are_chosen_by_the_teachers_cross_entropy_and_numbered_in_that_order(
    choose, published_run, edit_row, make_up_to
):
    from gvbsm.data.pixels import Pixels
    from gvbsm.training.networks import load_teacher, logits_of

    edit_row({"select": RANDOM | {"candidates": 6, "choose": choose}})
    planned = make_up_to("select")
    artifact = next(artifact for artifact in planned if artifact.stage == "select")
    teachers = [
        load_teacher(*load_tensors(STORE / path), torch.device("cpu"), "float32") for path in artifact.spec.inputs.teachers
    ]
    pixels = Pixels(artifact.spec.pixels, torch.device("cpu"))
    images, labels = training_set(planned)
    chosen = selected([artifact])
    for label, first, end in (group for batch in artifact.spec.batches for group in batch):
        candidates = select._candidates(labels, label, first, end, artifact.spec.settings)
        logits_TNK = logits_of(teachers, pixels.from_bytes(images[candidates]), "float32")
        losses = [F.cross_entropy(logits_NK, labels[candidates], reduction="none") for logits_NK in logits_TNK]
        ranked = candidates[torch.stack(losses).mean(0).argsort()].tolist()
        assert len(ranked) == 12 and end - first == 2
        expected = {"confidence": ranked[:2], "medium": ranked[5:7], "hard": ranked[:-3:-1]}[choose]
        assert [chosen[label, number][1][0] for number in range(first, end)] == expected


def test_recover_starts_from_selected_images_which_stay_without_iterations(published_run, edit_row, make_up_to):
    edit_row({"select": RANDOM, "recover": {"lr": 1e-9}})
    planned = make_up_to("recover")
    recovered = [load_tensors(STORE / artifact.path)[0] for artifact in planned if artifact.stage == "recover"]
    chosen = [load_tensors(STORE / artifact.path)[0] for artifact in planned if artifact.stage == "select"]
    for got, expected in zip(recovered, chosen, strict=True):
        assert torch.equal(got["images"], expected["images"]) and torch.equal(got["numbers"], expected["numbers"])
    edit_row({"recover": {"iterations": 0}} | ONE_STUDENT)
    planned = make_up_to("evaluate")
    assert not {"recover", "statistics"} & {artifact.stage for artifact in planned}
    used = [artifact for artifact in planned if artifact.stage == "evaluate" and "distilled" in artifact.name]
    assert used and all(artifact.spec.inputs.images == [x.path for x in planned if x.stage == "select"] for artifact in used)


@pytest.mark.nightly("stages")
def test_acc_json_has_the_settings_and_the_cost_of_select(published_run, edit_row, make_up_to, make_artifact):
    edit_row({"select": RANDOM, "recover": {"views": "relabel"}, "evaluate": {"baselines": [], "seeds": [0]}})
    accuracies = json.loads(make_artifact(make_up_to("evaluate")[-1]).read_text())
    settings = accuracies["settings"]
    assert {name: settings["select"][name] for name in RANDOM} == RANDOM
    assert settings["recover"]["views"] == "relabel"
    assert accuracies["cost"]["select"]["jobs"] == 2 and accuracies["cost"]["recover"]["jobs"] == 2


def test_baselines_are_those_asked_for(published_run, edit_row):
    def kinds() -> list[str]:
        names = [artifact.name for artifact in plan("tiny", 4) if artifact.stage == "evaluate" and "convnet" in artifact.name]
        return [name.rpartition("-")[2] for name in names]

    assert kinds() == ["distilled", "random_soft", "random_hard"]
    edit_row({"evaluate": {"baselines": ["distilled_hard"]}})
    assert kinds() == ["distilled", "distilled_hard"]
    hard = next(artifact for artifact in plan("tiny", 4) if artifact.name.endswith("distilled_hard"))
    assert hard.spec.inputs.images and not hard.spec.inputs.labels
    assert not any("random" in artifact.name for artifact in plan("tiny", 4))


def test_cells_are_of_distilled_images_alone(published_run, edit_row):
    """Random real images are whole, and so are their views, or the margin over them would flatter images of cells."""
    edit_row({"select": RANDOM | {"cells": 2}, "relabel": {"cells": 2}})
    specs = {artifact.name: artifact.spec for artifact in plan("tiny", 4)}
    assert {spec.settings.cells for name, spec in specs.items() if "distilled-epoch" in name} == {2}
    assert {spec.settings.cells for name, spec in specs.items() if "random-epoch" in name} == {None}
    hard = {name.rpartition("-")[2]: spec.views.cells for name, spec in specs.items() if name.endswith("_hard")}
    assert hard == {"random_hard": None}


def test_mistakes_are_refused(published_run, edit_row, make_up_to):
    edit_row({"recover": {"iterations": 0}})
    with pytest.raises(SettingsError, match=r"recover.iterations: expected at least 1 without select, got 0"):
        load_row("tiny")
    edit_row({"select": RANDOM | {"cells": 3}})
    with pytest.raises(SettingsError, match=r"select.cells: expected a divisor of image_size \(8\), got 3"):
        load_row("tiny")
    edit_row({"select": {"choose": "clusters", "cells": 2, "candidates": 10}})
    with pytest.raises(
        UserError, match=r"select: expected at least 160 training images in every class, got 1\d\d in class '\d'"
    ):
        make_up_to("select")


def test_a_killed_selection_goes_on_to_the_same_bytes(published_run, edit_row, make_up_to, monkeypatch):
    edit_row({"select": RANDOM | {"candidates": 3, "choose": "clusters", "cells": 2}})
    artifact = next(artifact for artifact in make_up_to("select") if artifact.stage == "select")
    expected = file_hash(STORE / artifact.path)
    (STORE / artifact.path).unlink()
    tick, ticks = Checkpoint.tick, []

    def killing(self, state):
        ticks.append(1)
        tick(self, state)
        if len(ticks) % 3 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "tick", killing)
    kills = 0
    while not (STORE / artifact.path).exists():
        try:
            select.run(
                Job(
                    spec=artifact.spec,
                    out=STORE / artifact.path,
                    store=STORE,
                    device="cpu",
                    checkpoints=Path("results/.checkpoints") / artifact.key,
                    checkpoint_seconds=0.0,
                )
            )
        except KeyboardInterrupt:
            kills += 1
    assert kills > 1 and file_hash(STORE / artifact.path) == expected
