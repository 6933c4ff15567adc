"""images.png: the right image in its place, real ones beside them, nothing cut off or on top of another thing."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from gvbsm.data.image_set import ImageSet
from gvbsm.pictures.figures import save
from gvbsm.pictures.grid import DPI, draw_grid


def plain_images(classes: int, per_class: int, size: int, first: int) -> ImageSet:
    """Image i is grey throughout, of value `first` + i."""
    values = torch.arange(classes * per_class, dtype=torch.uint8) + first
    images = values.view(-1, 1, 1, 1).expand(-1, 1, size, size).contiguous()
    return ImageSet([images], torch.arange(classes).repeat_interleave(per_class), torch.arange(len(images)))


def pixels(figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(save(figure, "png", DPI))).convert("L"))


@pytest.mark.parametrize("size", [8, 24, 64, 150])
def test_rows_are_classes_and_real_images_stand_right_of_distilled_ones(size):
    figure = draw_grid(plain_images(3, 4, size, 10), plain_images(3, 7, size, 60), ["a", "b", "c"], "title")
    picture = pixels(figure)
    values = [line[(line >= 10) & (line < 100)] for line in picture]
    by_row = {tuple(dict.fromkeys(line.tolist())) for line in values if len(line) > 7 * min(size, 60)}
    expected = {tuple([*range(10 + 4 * k, 14 + 4 * k), *range(60 + 7 * k, 65 + 7 * k)]) for k in range(3)}
    assert expected <= by_row, "of the real ones the first five"
    in_lines = (picture == 12).sum(1)  # one or two in texts
    side = in_lines.max()
    assert 48 <= side <= 140 and (in_lines == side).sum() == side, "a square of whole pixels"
    assert not size <= 64 or side % size == 0


def boxes(figure) -> dict[str, object]:
    figure.draw_without_rendering()
    return {text.get_text(): text.get_window_extent() for text in figure.texts}


@pytest.mark.parametrize("classes", [1, 2, 30])
@pytest.mark.parametrize("title", ["a, 1 image per class", "labels.two_threads, 10 images per class, recipe edc_and_more"])
def test_no_text_is_cut_or_meets_another(classes, title):
    names = [f"{'WMI' * (k % 9)}x{k}, and other names" for k in range(classes)]
    figure = draw_grid(plain_images(classes, 1, 32, 0), None, names, title)
    found = list(boxes(figure).values())
    width, height = figure.bbox.width, figure.bbox.height
    images = [axes.get_window_extent() for axes in figure.axes]
    for box in found:
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height
        assert not any(box.overlaps(other) for other in [*images, *(other for other in found if other is not box)])
    assert height - max(box.y1 for box in found) < 20, "no empty band"


def test_what_is_left_out_is_said():
    def said(classes: int, per_class: int) -> list[str]:
        figure = draw_grid(plain_images(classes, per_class, 8, 0), None, [str(k) for k in range(classes)], "title")
        return [text for text in boxes(figure) if text.startswith("the first")]

    assert said(20, 10) == [] and said(3, 1) == []
    assert said(21, 1) == ["the first image of the first 20 classes"]
    assert said(2, 11) == ["the first 10 images of the first 2 classes"]
