"""Parts of the iterations, and the images that join in them."""

import numpy as np
import pytest

from gvbsm.method.rounds import first_iterations, image_steps, join_rounds


def by_cumulative_sums(images: int, rounds: int) -> list[int]:
    """As DELT's script counts: each round has as many new images, the first ones one more; an image joins in the first round
    whose images, with those before, are more than its place."""
    new = np.full(rounds, images // rounds)
    new[: images % rounds] += 1
    return [int((place < new.cumsum()).argmax()) for place in range(images)]


@pytest.mark.parametrize("rounds", [1, 2, 5, 8])
@pytest.mark.parametrize("images", [1, 2, 5, 8, 10, 50])
def test_images_join_as_in_the_published_script(images, rounds):
    assert join_rounds(images, rounds) == by_cumulative_sums(images, rounds)


@pytest.mark.parametrize("iterations", [8, 12, 75, 4000])
@pytest.mark.parametrize("parts", [1, 2, 3, 7, 8])
def test_parts_begin_where_iterations_enter_them(iterations, parts):
    part = [t * parts // iterations for t in range(iterations)]
    assert first_iterations(iterations, parts) == [part.index(number) for number in range(parts)]


def test_steps_are_those_of_every_image():
    assert image_steps([10, 10], 4000, 8) == 2 * sum([4000, 4000, 3500, 3500, 3000, 2500, 2000, 1500, 1000, 500])
    assert image_steps([3, 1], 75, 2) == (75 + 75 + 37) + 75
    assert image_steps([4, 5], 10, 1) == 90
    assert image_steps([4], 0, 1) == 0
