"""The pictures of a run: planned apart from each other, and made by the workflow."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from gvbsm import cli
from gvbsm.config.messages import SettingsError
from gvbsm.config.project import load_config
from gvbsm.config.targets import parse_target
from gvbsm.data.image_set import random_choice
from gvbsm.data.pixels import Pixels
from gvbsm.method.diversity import mean_cosine_distance
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.pictures import pictures_of, plan_picture, plan_target
from gvbsm.pipeline.recover import Snapshots
from gvbsm.pipeline.registry import STAGES
from gvbsm.pipeline.specs import read_spec
from gvbsm.store.files import load_tensors
from gvbsm.store.keys import derive_seed
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import read_receipt, verify
from gvbsm.store.run import PICTURES

SETTINGS = load_config().pictures
FOLDER = Path("results/tiny/ipc4/pictures")


def drawings(settings=SETTINGS) -> dict[str, set[str]]:
    """For each of tiny's pictures: the paths that are made for it beside the run, its drawing among them."""
    run = {artifact.path for artifact in plan("tiny", 4)}
    return {
        name: {artifact.path for artifact in plan_picture("tiny", 4, None, name, settings)} - run
        for name in pictures_of("tiny", None)
    }


def test_every_spec_is_complete(workspace):
    for artifact in plan_target(parse_target("results/tiny/ipc4/pictures.txt"), SETTINGS):
        assert read_spec(STAGES[artifact.stage], json.dumps(artifact.spec.json_object)) == artifact.spec
    stages = {picture: sorted(path.split("/")[0] for path in paths) for picture, paths in drawings().items()}
    assert stages == {
        "curves": ["draw"],
        "classes": ["draw", "features", "features", "features"],
        "features": ["draw", "features", "features", "student"],
        "evolution": ["draw"],
    }


def test_a_setting_of_pictures_changes_its_pictures_and_no_run(workspace):
    before, run = drawings(), {artifact.path for artifact in plan("tiny", 4)}
    other = drawings(SETTINGS.model_copy(update={"perplexity": 7.0}))
    assert {name for name in before if before[name] != other[name]} == {"features"}
    assert {path.split("/")[0] for path in other["features"] - before["features"]} == {"draw"}
    more = drawings(SETTINGS.model_copy(update={"real": 20}))
    assert {name for name in before if before[name] != more[name]} == {"classes", "features"}
    assert {artifact.path for artifact in plan("tiny", 4)} == run


def test_the_run_needs_no_pictures(workspace, edit_row):
    stages = {artifact.stage for artifact in plan("tiny", 4)}
    assert not stages & {"draw", "features", "student"}
    with pytest.raises(
        SettingsError, match=r"config.yaml: expected pictures: with its settings, got none; add pictures: \{real"
    ):
        plan_picture("tiny", 4, None, "classes", None)
    assert plan_picture("tiny", 4, None, "curves", None)[-1].stage == "draw"
    edit_row({"recover": {"snapshots": None}})
    assert pictures_of("tiny", None) == ["curves", "features", "classes"]
    with pytest.raises(
        SettingsError, match=r"evolution: expected images that were recovered with recover.snapshots, got others"
    ):
        plan_picture("tiny", 4, None, "evolution", SETTINGS)


def test_only_shards_with_first_images_of_shown_classes_keep_snapshots(workspace):
    shards = [artifact.spec.snapshots for artifact in plan("tiny", 4) if artifact.stage == "recover"]
    assert shards == [Snapshots(iterations=[0, 1, 3], labels=list(range(10))), None]
    hundred = [artifact.spec.snapshots for artifact in plan("cifar100", 20) if artifact.stage == "recover"]
    assert [snapshots.labels for snapshots in hundred[:10]] == [[label] for label in range(0, 100, 10)]
    assert hundred[10:] == [None] * 10


def test_snapshots_change_no_image_and_begin_with_the_noise(published_run, edit_row, make_artifact):
    artifact = next(artifact for artifact in published_run if artifact.stage == "recover")
    with_them, metadata = load_tensors(STORE / artifact.path)
    assert with_them["snapshots"].shape == (10, 3, 1, 8, 8) and metadata["snapshots"]["iterations"] == [0, 1, 3]
    batch = artifact.spec.batches[0]
    seed = derive_seed(artifact.spec.settings.seed, "noise", batch)
    noise = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    expected = Pixels(artifact.spec.pixels, torch.device("cpu")).to_bytes(noise, "round")
    assert (with_them["snapshots"][:5, 0] == expected[::2]).all(), "two images of a class are beside each other"
    assert (with_them["snapshots"][:, 1] != with_them["snapshots"][:, 2]).any()
    edit_row({"recover": {"snapshots": None}})
    without, _ = load_tensors(make_artifact(next(artifact for artifact in plan("tiny", 4) if artifact.stage == "recover")))
    assert (without["images"] == with_them["images"]).all() and "snapshots" not in without


def test_diversity_is_the_mean_over_pairs():
    features, labels = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 0, 2, 2, 2, 3])
    distances = mean_cosine_distance(features, labels, 5)
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    pairs = [1 - unit[i] @ unit[j] for i in range(3) for j in range(i)]
    assert distances[0] == pytest.approx(float(sum(pairs)) / 3)
    assert distances.isnan().tolist() == [False, True, False, True, True]


def test_a_small_class_has_fewer_real_images_and_makes_no_other_smaller():
    labels = torch.tensor([0] * 9 + [1] * 2 + [2] * 5)
    chosen = labels[random_choice(labels, 4, 0)]
    assert torch.bincount(chosen).tolist() == [4, 2, 4]


@pytest.mark.nightly("snakemake")
def test_the_workflow_makes_all_and_draws_again_what_changed(published_run, run_snakemake, stale, capsys):
    target = "results/tiny/ipc4/pictures.txt"
    assert stale(target) == {"features": 4, "student": 1, "draw": 4, "pictures": 1}
    done = run_snakemake("--cores", "1", target=target)
    assert done.returncode == 0, done.stdout + done.stderr
    listed = Path(target).read_text().split()
    assert listed == [str(FOLDER / f"{name}.png") for name in PICTURES]
    for file in listed:
        with Image.open(file) as picture:
            assert picture.size[0] > 500 and np.asarray(picture.convert("L")).std() > 10
        assert "tiny, 4 images per class" in Path(file).with_suffix(".svg").read_text()
    assert stale(target) == {} and stale() == {}
    assert cli.main(["gc"]) == 0 and capsys.readouterr().out == "0 entries, 0 bytes that nothing needs\n"
    planned = plan_target(parse_target(target), SETTINGS)
    one = plan_target(parse_target("results/tiny/ipc4/pictures/features.svg"), SETTINGS)  # gc keeps what config.yaml asks for
    assert {artifact.path for artifact in one} < {artifact.path for artifact in planned}
    assert {"features", "student"} < {artifact.stage for artifact in one}
    for artifact in planned:
        assert artifact.stage == "draw" or verify(STORE / artifact.path)
    # The student that is trained again is the one that evaluate tested.
    student = next(artifact for artifact in planned if artifact.stage == "student")
    table = pd.read_csv(
        STORE / next(artifact.path for artifact in published_run if artifact.name == "digits-convnet-distilled")
    )
    assert read_receipt(STORE / student.path)["summary"]["top1"] == table[table["seed"] == 0]["top1"].iloc[-1]
    text = Path("config/config.yaml").read_text()
    Path("config/config.yaml").write_text(text.replace("perplexity: 30", "perplexity: 7"))
    assert stale(target) == {"draw": 1, "pictures": 1}
