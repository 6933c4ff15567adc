"""statistics: what is measured when it is asked for, and what recover makes of it."""

import copy
import json

import pytest
import torch

from gvbsm.config.images import Keep
from gvbsm.config.load import load_row
from gvbsm.config.teachers import StatisticsPass
from gvbsm.errors import UserError
from gvbsm.method import memory
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import STAGES
from gvbsm.pipeline.specs import read_spec
from gvbsm.pipeline.stage import part as part_of
from gvbsm.pipeline.statistics import MoreStatistics
from gvbsm.stages import recover, statistics
from gvbsm.stages.statistics import _Measures
from gvbsm.store.files import load_tensors
from gvbsm.store.plans import STORE


def statistics_of(planned) -> list:
    return [load_tensors(STORE / artifact.path) for artifact in planned if artifact.stage == "statistics"]


def test_more_is_measured_only_when_it_is_used(published_run, edit_row, make_up_to):
    plain = statistics_of(published_run)
    edit_row({"recover": {"class_statistics": 0.5, "keep": {"share": 0.5, "by": "importance"}}})
    more = statistics_of(make_up_to("recover"))
    for (before, metadata), (after, more_metadata) in zip(plain, more, strict=True):
        assert all(torch.equal(after[name], value) for name, value in before.items())
        new = after.keys() - before.keys()
        assert new and {name.rpartition("/")[2] for name in new} == {"class_mean", "class_var"}
        assert all(after[name].shape[0] == 10 for name in new)
        assert "importance" not in metadata
        importance = more_metadata["importance"]
        assert {name.rpartition("/")[0] for name in new} == importance.keys()
        values = [value for of in importance.values() for value in of.values()]
        assert all(value > 0 for value in values) and max(values) > 2  # noise is not a training set


def test_images_pass_once_each_in_an_order_of_their_own(published_run, make_artifact, monkeypatch):
    """Files lie by class: in their order, a batch would hold one class, and the mean of batches' variances be too small."""
    measure, seen = statistics._Pass.measure, []
    monkeypatch.setattr(statistics._Pass, "measure", lambda own, x, labels: (seen.append(labels), measure(own, x, labels))[1])
    artifact = next(artifact for artifact in published_run if artifact.stage == "statistics")
    stored = load_tensors(STORE / artifact.spec.inputs.data)[0]["train_labels"]
    (STORE / artifact.path).unlink()
    make_artifact(artifact)
    passed = torch.cat(seen)
    assert not torch.equal(passed, stored) and torch.equal(passed.sort().values, stored.sort().values)
    first = seen[0].bincount(minlength=10) / len(seen[0])
    assert first.max() < 0.5, "a batch has many classes"


def test_class_moments_are_those_of_the_augmented_training_set(published_run, edit_row, make_up_to):
    """The first layer sees the images themselves: over all classes its class means average to the mean of all."""
    edit_row({"recover": {"class_statistics": 0.5}, "statistics": {"variance": "pooled"}})
    planned = make_up_to("statistics")
    data, _ = load_tensors(STORE / planned[0].path)
    share_K = torch.bincount(data["train_labels"]).double() / len(data["train_labels"])
    for tensors, _ in statistics_of(planned):
        name = next(key for key in tensors if key.endswith("/channel_mean")).rpartition("/")[0]
        first = {kind: tensors[f"{name}/{kind}"] for kind in ("class_mean", "class_var", "channel_mean", "channel_var")}
        mean = share_K @ first["class_mean"]
        square = share_K @ (first["class_var"] + first["class_mean"].square())
        torch.testing.assert_close(mean, first["channel_mean"], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(square - mean.square(), first["channel_var"], rtol=1e-5, atol=1e-7)


def test_class_moments_of_a_layer_that_is_called_again_are_of_all_its_calls():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 3, 1)
    teacher = torch.nn.Sequential(layer, torch.nn.ReLU(), layer)
    more = MoreStatistics(**part_of(StatisticsPass, load_row("digits").statistics).model_dump(), by_class=True)
    x_BCHW, labels_B = torch.randn(6, 3, 4, 4), torch.tensor([0, 1, 0, 1, 1, 0])
    with torch.no_grad():
        measures = _Measures(teacher, more, 2, x_BCHW[:1], {})
        for part, labels in zip(x_BCHW.split(4), labels_B.split(4), strict=True):
            teacher(part)
            measures.end_part(len(part), labels)
        measures.end_batch()
        both = torch.cat([x_BCHW, teacher[:2](x_BCHW)])
    tensors = measures.tensors()
    for label in (0, 1):
        of_class = both[labels_B.repeat(2) == label].double()
        torch.testing.assert_close(tensors["0/class_mean"][label], of_class.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(tensors["0/class_var"][label], of_class.var((0, 2, 3), correction=0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tensors["0/channel_mean"], both.double().mean((0, 2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variance", ["pooled", "mean_of_batches"])
def test_what_is_measured_goes_on_from_a_state_to_the_same_bytes(variance):
    settings = part_of(StatisticsPass, load_row("digits").statistics).model_dump() | {"variance": variance}
    more = MoreStatistics(**settings, by_class=True, importance=True)
    generator = torch.Generator().manual_seed(0)
    *batches, noise = torch.randn(4, 6, 3, 5, 5, generator=generator)
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1)
    measured = []
    for stop in (None, 1, 3):
        teacher, state = torch.nn.Sequential(*copy.deepcopy(layers)).eval().requires_grad_(False), {}
        measures = _Measures(teacher, more, 2, noise[:1], state)
        for number, x_BCHW in enumerate(batches, 1):
            teacher(x_BCHW)
            measures.end_part(len(x_BCHW), torch.arange(6) % 2)
            measures.end_batch()
            if number == stop:
                teacher, state = torch.nn.Sequential(*copy.deepcopy(layers)).eval(), copy.deepcopy(measures.state())
                measures = _Measures(teacher.requires_grad_(False), more, 2, noise[:1], state)
        teacher(noise)
        measures.end_part(len(noise))
        measured.append((measures.tensors(), measures.importance()))
    (expected, importance), *others = measured
    assert {name.rpartition("/")[2] for name in expected} >= {"channel_mean", "patch_var", "class_var"}
    assert importance.keys() == {"0", "1", "2"} and all(importance == got for _, got in others)
    assert all(got.keys() == expected.keys() for got, _ in others)
    assert all(torch.equal(got[name], value) for got, _ in others for name, value in expected.items())


@pytest.mark.parametrize(("share", "count"), [(None, 1), (0.5, 2)])
def test_compiled_graphs_are_counted_by_images_and_by_classes_that_are_matched(share, count):
    """Two batches of 100 images, of seven classes and of eight."""
    ranges = [[label, 0, 15] for label in range(6)]
    batches = [[*ranges, [6, 0, 10]], [[6, 10, 15], *[[label, 0, 15] for label in range(7, 13)], [13, 0, 5]]]
    settings = load_row("digits").recover.model_copy(update={"class_statistics": share})
    assert len(recover._shapes(batches, settings)) == count


def recovered(planned) -> list:
    return [load_tensors(STORE / artifact.path)[0]["images"] for artifact in planned if artifact.stage == "recover"]


def test_a_teacher_in_which_nothing_can_be_matched_is_named(published_run, edit_row, make_artifact):
    """Also where its job runs without the check before it."""
    edit_row({"recover": {"layers": ["batchnorm"]}})  # convnet's norm has no running moments
    recover = next(artifact for artifact in plan("tiny", 4) if artifact.stage == "recover")
    with pytest.raises(UserError, match=r"squeeze/digits-convnet-.*: expected layers of batchnorm to match, got none; add"):
        make_artifact(recover)


@pytest.mark.nightly("stages")
def test_nothing_is_measured_that_is_not_matched_or_that_teachers_hold(published_run, edit_row, make_up_to):
    _, *with_batchnorm = load_row("tiny").backbones
    edit_row({"backbones": [{"name": backbone.name, "options": backbone.options} for backbone in with_batchnorm]})

    def images(weight: float, keep: dict | None) -> tuple[list, set[str]]:
        # No Conv layers, so no draws of which are dropped: the other random numbers stay the same.
        edit_row({"recover": {"statistics_weight": weight, "keep": keep, "layers": ["batchnorm"]}})
        planned = make_up_to("recover")
        return recovered(planned), {artifact.stage for artifact in planned}

    all_kept = {"share": 1.0, "by": "importance"}  # the same is matched, but only a pass tells how important it is
    matched, stages = images(0.01, all_kept)
    assert "statistics" in stages
    without_pass, stages = images(0.01, None)
    assert "statistics" not in stages and without_pass
    assert all(torch.equal(first, second) for first, second in zip(without_pass, matched, strict=True))
    unmatched, stages = images(0.0, None)
    assert "statistics" not in stages
    assert not any(torch.equal(first, second) for first, second in zip(unmatched, matched, strict=True))
    tiny, _ = images(1e-30, None)
    assert all(torch.equal(first, second) for first, second in zip(unmatched, tiny, strict=True))


@pytest.mark.parametrize(("weight", "count", "expected"), [(0.01, 0, 3), (0.01, 2, 3), (0.0, 3, 0)])
def test_a_spec_has_statistics_of_every_teacher_or_no_weight(published_run, weight, count, expected):
    spec = copy.deepcopy(next(artifact.spec for artifact in published_run if artifact.stage == "recover").json_object)
    spec["settings"]["statistics_weight"] = weight
    spec["inputs"]["statistics"] = spec["inputs"]["statistics"][:count]
    with pytest.raises(UserError, match=rf"inputs.statistics: expected {expected} .* got {count}"):
        read_spec(STAGES["recover"], json.dumps(spec))


@pytest.mark.parametrize("by", ["importance", "random"])
def test_a_share_is_kept_of_every_teacher(by):
    importance = {"conv": {"channel": 5.0, "patch": 1.0}, "bn": {"channel": 4.0}, "other": {"channel": 3.0, "patch": 2.0}}
    settings = load_row("digits").recover.model_copy(update={"keep": Keep(share=0.5, by=by), "seed": 0})
    selected = recover._selected_statistics(settings, "statistics/a", {"importance": importance})
    assert len(selected) == 2 and (by == "random" or selected == {("conv", "channel"), ("bn", "channel")})
    settings = settings.model_copy(update={"conv_statistics": ["patch"]})
    assert len(recover._selected_statistics(settings, "statistics/a", {"importance": importance}) - {("bn", "channel")}) >= 1
    settings = settings.model_copy(update={"layers": ["conv"]})
    assert recover._selected_statistics(settings, "statistics/a", {"importance": importance}) <= {
        ("conv", "patch"),
        ("other", "patch"),
    }
    assert recover._selected_statistics(settings.model_copy(update={"keep": None}), "statistics/a", {}) is None


@pytest.mark.parametrize("variance", ["pooled", pytest.param("mean_of_batches", marks=pytest.mark.nightly("stages"))])
def test_a_batch_that_passes_in_parts_has_the_same_statistics(variance, published_run, edit_row, make_up_to, monkeypatch):
    """So that memory does not grow with the batch at 224 px; the last batch and the last part are smaller ones."""
    edit_row(
        {"statistics": {"variance": variance, "batch_size": 50}, "backbones": [load_row("tiny").backbones[2].model_dump()]}
    )
    edit_row({"recover": {"class_statistics": 0.5, "keep": {"share": 0.5, "by": "importance"}}})
    planned = make_up_to("statistics")
    whole = statistics_of(planned)
    for artifact in planned:
        if artifact.stage == "statistics":
            (STORE / artifact.path).unlink()
    monkeypatch.setitem(memory.PASSED, "cpu", 7 * 8**2)  # values of seven images
    for (before, metadata), (after, in_parts) in zip(whole, statistics_of(make_up_to("statistics")), strict=True):
        assert before.keys() == after.keys()
        for name, value in before.items():
            torch.testing.assert_close(after[name], value, rtol=1e-5, atol=1e-6)
        for layer, importance in metadata["importance"].items():
            assert in_parts["importance"][layer] == pytest.approx(importance, rel=1e-3)
