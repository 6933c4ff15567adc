"""The inputs of every test are the same each time (tests/conftest.py)."""

import random

import numpy as np
import pytest
import torch


@pytest.mark.parametrize("turn", [1, 2])
def test_every_test_begins_with_the_same_draws(turn):
    assert random.random() == random.Random(0).random()
    assert np.random.rand() == np.random.RandomState(0).rand()  # noqa: NPY002 (the state of the process is tested)
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(0))
