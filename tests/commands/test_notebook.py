"""A loaded run shows itself in a notebook, and the notebook of examples/ runs from its first cell to its last."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gvbsm
from gvbsm.share.notebook import as_html
from gvbsm.store.code import PACKAGE

RUN = Path("results/tiny/ipc4")
NOTEBOOK = PACKAGE.parent / "examples" / "quickstart.ipynb"


def pictures(html: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(one)))) for one in found]


@pytest.mark.parametrize(("split", "shown"), [("train", 4), ("images", 4), ("test", 10)])
def test_a_loaded_run_shows_itself(split, shown, published_run):
    data = gvbsm.load(RUN, split=split)
    html = data._repr_html_()
    assert repr(data).splitlines()[0] in html and "students: " in html
    assert re.findall(r"<th>(.*?)</th>", html) == data.class_names
    assert ("the first 10 images of a class" in html) == (split == "test")
    strips = pictures(html)
    assert [strip.shape for strip in strips] == [(8, 9 * shown - 1)] * 10
    if split == "train":
        for label, strip in enumerate(strips):
            for number, image in enumerate(data.images[data.labels == label][:, 0]):
                assert np.array_equal(strip[:, 9 * number : 9 * number + 8], image.numpy())
            assert (strip[:, 8::9] == 255).all()


def test_an_exported_folder_shows_itself(published_run, tmp_path):
    from gvbsm import cli

    assert cli.main(["export", str(RUN), "--to", "imagefolder", "--out", str(tmp_path / "out")]) == 0
    assert pictures(gvbsm.load(tmp_path / "out")._repr_html_())[3].shape == (8, 35)


@pytest.mark.parametrize(("channels", "side", "shape"), [(1, 16, (16, 33)), (3, 16, (16, 33, 3)), (3, 224, (96, 198, 3))])
def test_pictures_of_any_data_set(channels, side, shape):
    images = torch.randint(0, 256, (4, channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 2, 2])  # a class without images has no row
    html = as_html("four", lambda index: images[index], labels, ["a", "b", "<i>c</i>"])
    assert [strip.shape for strip in pictures(html)] == [shape] * 2
    assert re.findall(r"<th>(.*?)</th>", html) == ["a", "&lt;i&gt;c&lt;/i&gt;"]
    assert "Shown:" not in html
    if side == 16:
        first = images[:2, 0] if channels == 1 else images[:2].movedim(1, -1)
        assert np.array_equal(np.delete(pictures(html)[0], 16, axis=1), np.concatenate([*first.numpy()], axis=1))


def test_many_classes_are_ten_that_lie_evenly_spread():
    images = torch.zeros(100, 1, 8, 8, dtype=torch.uint8)
    html = as_html("many", lambda index: images[index], torch.arange(100), [f"class {label}" for label in range(100)])
    assert re.findall(r"<th>class (\d+)</th>", html) == [str(11 * number) for number in range(10)]
    assert "10 of 100 classes" in html and "of a class" not in html


def test_the_notebook_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert {cell["cell_type"] for cell in cells} == {"code", "markdown"}
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")
    assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")


@pytest.mark.nightly("notebook")
def test_the_notebook_runs(published_run, tmp_path):
    """On the small run, which stands where the notebook looks for that of digits."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    Path("results/digits").mkdir()
    Path("results/digits/ipc10").symlink_to(RUN.resolve())
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    kinds = {kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert {"text/html", "image/png"} <= kinds
    printed = "".join(output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output)
    accuracies = [float(one) for one in re.findall(r"([\d.]+) % of the test images", printed)]
    assert accuracies and all(0 <= one <= 100 for one in accuracies)
