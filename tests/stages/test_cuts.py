"""How the work is cut, and in what order, changes no byte of an image; a run repeats itself."""

import pytest
import torch

from gvbsm.method.memory import RENDERED
from gvbsm.pipeline.graph import plan
from gvbsm.store.files import file_hash, load_tensors
from gvbsm.store.plans import STORE
from tests.tiny import ONE_STUDENT


def images_of(planned) -> dict[tuple[int, int], torch.Tensor]:
    """Every distilled image by class and number."""
    images = {}
    for artifact in planned:
        if artifact.stage == "recover":
            tensors, _ = load_tensors(STORE / artifact.path)
            for image, label, number in zip(*(tensors[n] for n in ("images", "labels", "numbers")), strict=True):
                images[int(label), int(number)] = image
    return images


def assert_equal_images(first, second) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_few_shards_or_many(published_run, edit_row, make_up_to):
    few = published_run
    edit_row({"recover": {"shard_batches": 1}})
    many = make_up_to("recover")
    assert sum(a.stage == "recover" for a in few) == 2
    assert sum(a.stage == "recover" for a in many) == 4
    assert_equal_images(images_of(few), images_of(many))


@pytest.mark.parametrize("batches", [1, 2, 3, 4, 100])
def test_more_images_per_class_only_add_shards(batches, workspace, edit_row):
    """However the batches are divided; 3 does not divide the batches of a group of images per class."""
    edit_row({"recover": {"shard_batches": batches, "batch_size": 6}})
    ten, fifty = ({a.path for a in plan("tiny", ipc) if a.stage == "recover"} for ipc in (2, 10))
    assert ten < fifty and len(fifty) == 5 * len(ten)


def test_any_order_of_the_shards(published_run, make_artifact):
    shards = [a for a in published_run if a.stage == "recover"]
    forwards = [file_hash(STORE / a.path) for a in shards]
    for artifact in shards:
        (STORE / artifact.path).unlink()
    backwards = [file_hash(make_artifact(a)) for a in reversed(shards)]
    assert forwards == backwards[::-1]


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.nightly("stages")), 2])
def test_batches_rendered_one_by_one_or_together(accumulate, published_run, edit_row, make_up_to, make_artifact, monkeypatch):
    """Students change in no byte; in labels, what networks make of larger batches may be rounded otherwise."""
    edit_row(ONE_STUDENT)
    edit_row({"relabel": {"batch_size": 12, "coding": {"values": "float32"}}})
    edit_row({"evaluate": {"accumulate": accumulate, "baselines": ["random_soft", "random_hard"]}})
    planned = make_up_to("evaluate")
    students = [a for a in planned if a.stage == "evaluate"]
    labels = next(a for a in planned if a.stage == "relabel")
    together, before = [file_hash(STORE / a.path) for a in students], load_tensors(STORE / labels.path)
    monkeypatch.setitem(RENDERED, "cpu", 1)
    assert [file_hash(make_artifact(artifact)) for artifact in students] == together
    after = load_tensors(make_artifact(labels))
    assert after[1] == before[1]
    torch.testing.assert_close(after[0]["values"], before[0]["values"], rtol=1e-4, atol=1e-5)


def test_fewer_images_per_class_are_part_of_more(published_run, make_up_to):
    few, more = make_up_to("recover", ipc=2), make_up_to("recover", ipc=5)
    small, large = images_of(few), images_of(more)
    assert len(small) == 20 and len(large) == 50
    assert_equal_images(small, {key: large[key] for key in small})
    paths = {a.path for a in more}
    assert all(a.path in paths for a in few if a.stage == "recover")


@pytest.mark.nightly("stages")
def test_everything_repeats(published_run, make_artifact):
    planned = published_run[:-1]
    first = {a.path: file_hash(STORE / a.path) for a in planned}
    for a in planned:
        (STORE / a.path).unlink()
        make_artifact(a)
    assert first == {a.path: file_hash(STORE / a.path) for a in planned}


def test_label_shards_are_parts_of_the_whole(published_run, edit_row, make_up_to):
    def labels():
        shards = [load_tensors(STORE / a.path)[0] for a in plan("tiny", 4) if a.stage == "relabel" and "distilled" in a.name]
        return {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}

    many = labels()
    edit_row({"relabel": {"shard_epochs": 100}})
    make_up_to("relabel")
    assert all(torch.equal(many[name], value) for name, value in labels().items())
