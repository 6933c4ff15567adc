"""recover.views: images that are optimised as students will see them."""

from pathlib import Path

import pytest
import torch

from gvbsm.data.pixels import Pixels
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.stage import Artifact
from gvbsm.stages.recover import _augmentation
from gvbsm.store.files import load_tensors
from gvbsm.store.job import Job
from gvbsm.store.plans import STORE


def recovered() -> list[Artifact]:
    return [one for one in plan("tiny", 4) if one.stage == "recover"]


def augmentation(one: Artifact, labels_B: torch.Tensor):
    job = Job(
        spec=one.spec,
        out=STORE / one.path,
        store=STORE,
        device="cpu",
        checkpoints=Path("results/.checkpoints") / one.key,
        checkpoint_seconds=0.0,
    )
    pixels = Pixels(one.spec.pixels, torch.device("cpu"))
    return _augmentation(job, labels_B, pixels), pixels


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
def test_a_view_is_of_its_image_and_labelled_by_what_is_in_it(mix, made, edit_row):
    edit_row({"recover": {"views": "relabel"}, "relabel": {"mix": mix}})
    labels_B = torch.arange(10)
    augment, pixels = augmentation(recovered()[0], labels_B)
    levels_B = 20.0 * labels_B.flip(0)  # a grey of its own for every image
    x_BCHW = pixels.from_levels(levels_B.view(-1, 1, 1, 1).expand(-1, 1, 8, 8)).requires_grad_()
    for seed in range(5):
        torch.manual_seed(seed)
        view_BCHW, shown_BK = augment(x_BCHW)
        seen_BCHW = pixels.unit(view_BCHW) * 255
        assert torch.allclose(shown_BK.sum(1), torch.ones(10))
        if mix == "mixup":
            torch.testing.assert_close(seen_BCHW.mean((1, 2, 3)), shown_BK @ levels_B)
        else:
            own_B = (seen_BCHW.round() == levels_B.view(-1, 1, 1, 1)).float().mean((1, 2, 3))
            torch.testing.assert_close(own_B, shown_BK.diagonal())
    assert (shown_BK.diagonal() < 1).any() == (mix != "none")
    (gradient,) = torch.autograd.grad(view_BCHW.sum(), x_BCHW)
    assert (gradient.flatten(1).abs().sum(1) > 0).all()


def test_the_same_views_after_the_same_seed_and_others_after_another(made, edit_row):
    edit_row({"recover": {"views": "relabel"}})
    augment, _ = augmentation(recovered()[0], torch.arange(10))
    x_BCHW = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(augment(x_BCHW)[0])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_images_depend_on_how_views_are_drawn_only_where_they_are_seen(made, edit_row, make_up_to):
    before = [one.key for one in recovered()]
    edit_row({"relabel": {"scale": [0.5, 1.0], "seed": 3}})
    assert [one.key for one in recovered()] == before
    edit_row({"recover": {"views": "relabel"}})
    seen = [one.key for one in recovered()]
    edit_row({"relabel": {"seed": 4}})
    assert [one.key for one in recovered()] == seen != before
    edit_row({"relabel": {"scale": [0.4, 1.0]}})
    assert not {one.key for one in recovered()} & {*seen, *before}
    planned = make_up_to("recover")
    images = [load_tensors(STORE / one.path)[0]["images"] for one in planned if one.stage == "recover"]
    assert sum(len(one) for one in images) == 40
