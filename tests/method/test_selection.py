"""Which of the scored candidates are chosen, in which order."""

import pytest
import torch

from gvbsm.method.selection import by_loss, dealt, entropy, nearest, nearest_and_unsure, pack


@pytest.mark.parametrize(
    ("choose", "losses", "expected"),
    [
        ("confidence", [3.0, 1.0, 2.0, 1.0], [1, 3, 2, 0]),
        ("hard", [3.0, 1.0, 2.0, 3.0], [0, 3, 2, 1]),
        ("medium", [5.0, 1.0, 3.0, 4.0, 2.0], [2, 4, 3, 1, 0]),  # the third, then the second and the fourth
        ("medium", [1.0, 2.0, 3.0, 4.0], [1, 2, 0, 3]),
        ("medium", [7.0], [0]),
    ],
)
def test_the_order_by_loss(choose, losses, expected):
    assert by_loss(torch.tensor(losses), choose).tolist() == expected


@pytest.mark.parametrize("count", [1, 2, 3, 40, 41])
def test_medium_ones_are_those_between_as_many_surer_as_less_sure_ones(count):
    loss_N = torch.rand(41, generator=torch.Generator().manual_seed(count))
    chosen = by_loss(loss_N, "medium")[:count]
    surer, less_sure = (loss_N < loss_N[chosen].min()).sum(), (loss_N > loss_N[chosen].max()).sum()
    assert len(set(chosen.tolist())) == count == 41 - surer - less_sure and abs(surer - less_sure) <= 1
    distances = [abs(int((loss_N < loss_N[at]).sum()) - 20) for at in chosen]
    assert distances == sorted(distances)


def test_packed_images_share_the_surest_ones():
    """Of n images, image i has the ranks i, n + i, 2 n + i and 3 n + i, row by row; of whole images, the order stays."""
    n = 3
    ranked_N = torch.arange(4 * n).view(-1, 1, 1, 1)
    packed_n1CC = pack(ranked_N[dealt(torch.arange(4 * n), 2)], 2)
    assert packed_n1CC[:, 0].tolist() == [[[i, n + i], [2 * n + i, 3 * n + i]] for i in range(n)]
    assert dealt(torch.tensor([4, 2, 7]), 1).tolist() == [4, 2, 7]


def test_entropy_is_that_of_the_teachers_mean_prediction():
    logits = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.distributions.Categorical(probs=torch.softmax(logits, 2).mean(0)).entropy()
    torch.testing.assert_close(entropy(logits), expected)
    sure = torch.tensor([[[200.0, 0.0, 0.0]], [[0.0, 200.0, 0.0]]])  # each teacher is sure, of another class
    torch.testing.assert_close(entropy(sure), torch.tensor([2.0]).log())


def test_half_are_nearest_to_centres_and_half_the_least_certain_of_these_clusters():
    features = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.5], [30.0]])
    centres = torch.tensor([[1.1], [11.1], [30.0]])
    unsure = torch.tensor([0.1, 9.0, 0.3, 0.4, 8.0, 0.2, 7.0])
    chosen = nearest_and_unsure(features, centres, unsure, 6).tolist()
    assert chosen == [1, 4, 6, 2, 3, 0 if unsure[0] > unsure[5] else 5]  # the third cluster has no second image
    assert nearest_and_unsure(features, centres, unsure, 5).tolist() == [1, 4, 6, 2, 3]
    assert torch.equal(nearest_and_unsure(features, centres, unsure, 3), nearest(features, centres))
