"""Student losses and the teachers' mean."""

import pytest
import torch
from torch.nn import functional as F

from gvbsm.method.losses import dist_loss, hard_loss, soft_loss
from gvbsm.method.soft_labels import mean_logits

STUDENT, TEACHER = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0)).unbind()


def test_mse_is_over_all_logits():
    torch.testing.assert_close(soft_loss(STUDENT, TEACHER, "mse", None), ((STUDENT - TEACHER) ** 2).mean())


def test_kl_has_no_factor_of_temperature_squared():
    log_ratio = (TEACHER / 20).log_softmax(1) - (STUDENT / 20).log_softmax(1)
    expected = ((TEACHER / 20).softmax(1) * log_ratio).sum(1).mean()
    torch.testing.assert_close(soft_loss(STUDENT, TEACHER, "kl", 20.0), expected)


def test_dist_is_zero_for_equal_and_counts_classes_and_batch():
    assert dist_loss(TEACHER, TEACHER).item() == pytest.approx(0, abs=1e-6)
    rows = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(STUDENT.softmax(1), TEACHER.softmax(1), strict=True)]
    columns = [torch.corrcoef(torch.stack(p))[0, 1] for p in zip(STUDENT.softmax(1).T, TEACHER.softmax(1).T, strict=True)]
    expected = 2 * (1 - torch.stack(rows).mean()) + 2 * (1 - torch.stack(columns).mean())
    torch.testing.assert_close(soft_loss(STUDENT, TEACHER, "dist", None), expected)


@pytest.mark.parametrize("mixed", [False, True])
def test_gift_turns_student_logits_towards_the_teachers_and_a_little_towards_the_label(mixed):
    labels, partners = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 1, 0, 3, 2, 4])
    share = torch.linspace(0.2, 0.9, 6).unsqueeze(1) if mixed else torch.ones(6, 1)
    hard = share * F.one_hot(labels, 5) + (1 - share) * F.one_hot(partners, 5)
    losses = []
    for z, t, p in zip(STUDENT, TEACHER, hard, strict=True):
        smoothed = torch.stack([0.9 * x + 0.1 / 4 * (1 - x) for x in p])
        y = t / t.norm() + 0.1 * smoothed / smoothed.norm()
        losses.append(1 - z @ y / (z.norm() * y.norm()))
        assert smoothed.sum().item() == pytest.approx(1)
    torch.testing.assert_close(soft_loss(STUDENT, TEACHER, "gift", None, hard), torch.stack(losses).mean())
    torch.testing.assert_close(soft_loss(7 * STUDENT, 3 * TEACHER, "gift", None, hard), torch.stack(losses).mean())


def test_hard_loss_of_one_hot_labels_is_cross_entropy():
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    torch.testing.assert_close(hard_loss(STUDENT, F.one_hot(labels, 5).float()), F.cross_entropy(STUDENT, labels))


def test_teachers_are_averaged_and_rescaled_to_the_mean_norm():
    logits = torch.stack([TEACHER, 9 * STUDENT])
    torch.testing.assert_close(mean_logits(logits, rescale=False), (TEACHER + 9 * STUDENT) / 2)
    norms = logits.flatten(1).norm(dim=1)
    expected = sum(z * norms.mean() / norm for z, norm in zip(logits, norms, strict=True)) / 2
    torch.testing.assert_close(mean_logits(logits, rescale=True), expected)
