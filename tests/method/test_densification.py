"""L_DD beyond the golden figures: the fault and its corrections."""

import pytest
import torch

from gvbsm.method.densification import TangentLoss, class_groups, densification_loss, gram_matrices


def converged_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Images as alike, and of pixel values as large, as real normalised images of a class are."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(2, 1, 3, 32, 32, generator=generator)
    x = (common + 0.7 * torch.randn(2, 5, 3, 32, 32, generator=generator)).flatten(0, 1)
    return x, torch.arange(2).repeat_interleave(5)


def loss_and_gradient(normalise: str) -> tuple[float, float]:
    x, labels = converged_images()
    x.requires_grad_()
    loss = densification_loss(x, labels, 4.0, normalise)
    loss.backward()
    return loss.item(), x.grad.norm().item()


def test_published_is_dead_on_images_alike():
    """Fault 1: eigenvalues in the thousands saturate both softmaxes."""
    assert loss_and_gradient("none") == (0.0, 0.0)


@pytest.mark.parametrize("normalise", ["mean", "rows"])
def test_corrected_has_loss_and_gradient(normalise):
    loss, gradient = loss_and_gradient(normalise)
    assert loss > 0.01
    assert gradient > 1e-4


@pytest.mark.parametrize("normalise", ["mean", "rows"])
def test_descending_makes_a_class_less_alike(normalise):
    x, labels = converged_images()

    def likeness(x):
        rows = torch.nn.functional.normalize(x[labels == 0].flatten(1))
        return (rows @ rows.T).triu(1).sum().item() / 10

    before = likeness(x)
    for _ in range(20):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(densification_loss(x, labels, 4.0, normalise), x)
        x = (x - 0.5 * gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-9).view(-1, 1, 1, 1)).detach()
    assert likeness(x) < before


def test_classes_of_unequal_size_and_any_order():
    x, labels = converged_images()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        densification_loss(x[order], labels[order], 4.0, "mean"), densification_loss(x, labels, 4.0, "mean")
    )
    uneven = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3, 4])
    apart = sum(densification_loss(x[uneven == y], uneven[uneven == y], 4.0, "mean") for y in range(5))
    torch.testing.assert_close(densification_loss(x, uneven, 4.0, "mean"), apart)


def test_rows_of_classes_are_selected_by_a_flat_index():
    """A graph replays the gradient of any other index with a sort of it in every iteration."""
    x, _ = converged_images()
    groups = class_groups(torch.tensor([0, 1, 0, 0, 1, 2, 2, 0, 3, 3]))
    rows = torch.nn.functional.adaptive_avg_pool2d(x, 32).flatten(1)
    nodes, names = [], set()
    for gram, index in zip(gram_matrices(x.requires_grad_(), groups, "mean"), groups, strict=True):
        torch.testing.assert_close(gram, rows[index] @ rows[index].transpose(1, 2))
        nodes.append(gram.grad_fn)
    while nodes:
        if node := nodes.pop():
            names.add(node.name())
            nodes += [following for following, _ in node.next_functions]
    assert "IndexSelectBackward0" in names and "IndexBackward0" not in names


def test_one_image_a_class_adds_nothing():
    x, _ = converged_images()
    assert densification_loss(x, torch.arange(10), 4.0, "mean").item() == 0.0


@pytest.mark.parametrize("normalise", ["none", "mean", "rows"])
def test_the_tangent_has_the_value_and_the_gradient_where_it_was_moved_to(normalise):
    x, _ = converged_images()
    x = 0.02 * x  # eigenvalues at which nothing saturates
    labels = torch.tensor([0, 1, 0, 0, 1, 2, 2, 0, 3, 3])
    groups = class_groups(labels)
    assert [tuple(index.shape) for index in groups] == [(3, 2), (1, 4)]
    tangent = TangentLoss(groups, 4.0, normalise, x.device)
    for _ in range(2):
        x = (x + 0.01 * torch.randn_like(x)).requires_grad_()
        tangent.move(gram_matrices(x, groups, normalise))
        got, expected = tangent(gram_matrices(x, groups, normalise)), densification_loss(x, labels, 4.0, normalise)
        torch.testing.assert_close(got, expected)
        gradients = [torch.autograd.grad(loss, x)[0] for loss in (got, expected)]
        assert gradients[1].abs().max() > 1e-6
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)
