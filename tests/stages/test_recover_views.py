"""recover.views: images that are optimised as students will see them."""

from pathlib import Path

import pytest
import torch

from gvbsm.data.pixels import Pixels
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.stage import Artifact
from gvbsm.stages.recover import _views
from gvbsm.store.files import load_tensors
from gvbsm.store.job import Job
from gvbsm.store.plans import STORE


def recovered() -> list[Artifact]:
    return [artifact for artifact in plan("tiny", 4) if artifact.stage == "recover"]


def augmentation(artifact: Artifact):
    job = Job(
        spec=artifact.spec,
        out=STORE / artifact.path,
        store=STORE,
        device="cpu",
        checkpoints=Path("results/.checkpoints") / artifact.key,
        checkpoint_seconds=0.0,
    )
    pixels = Pixels(artifact.spec.pixels, torch.device("cpu"))
    return _views(job, [[0, 0, 10]], pixels), pixels


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
def test_a_view_is_of_its_image_and_labelled_by_what_is_in_it(mix, published_run, edit_row):
    edit_row({"recover": {"views": "relabel"}, "relabel": {"mix": mix}})
    labels_B = torch.arange(10)
    augment, pixels = augmentation(recovered()[0])
    levels_B = 20.0 * labels_B.flip(0)  # a grey of its own for every image
    x_BCHW = pixels.from_levels(levels_B.view(-1, 1, 1, 1).expand(-1, 1, 8, 8)).requires_grad_()
    for number in range(5):
        view_BCHW, shown_BK = augment(x_BCHW, labels_B, number)
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


def test_the_same_views_in_the_same_iteration_and_others_in_another(published_run, edit_row):
    edit_row({"recover": {"views": "relabel"}})
    augment, _ = augmentation(recovered()[0])
    x_BCHW = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    views = [augment(x_BCHW, torch.arange(10), number)[0] for number in (0, 0, 1)]
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])


def test_images_depend_on_how_views_are_drawn_only_where_they_are_seen(published_run, edit_row, make_up_to):
    before = [artifact.key for artifact in recovered()]
    edit_row({"relabel": {"scale": [0.5, 1.0], "seed": 3}})
    assert [artifact.key for artifact in recovered()] == before
    edit_row({"recover": {"views": "relabel"}})
    seen = [artifact.key for artifact in recovered()]
    edit_row({"relabel": {"seed": 4}})
    assert [artifact.key for artifact in recovered()] == seen != before
    edit_row({"relabel": {"scale": [0.4, 1.0]}})
    assert not {artifact.key for artifact in recovered()} & {*seen, *before}
    planned = make_up_to("recover")
    images = [load_tensors(STORE / artifact.path)[0]["images"] for artifact in planned if artifact.stage == "recover"]
    assert sum(len(shard) for shard in images) == 40
