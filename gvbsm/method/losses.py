"""Losses of a student."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def soft_loss(logits_BK: Tensor, soft_BK: Tensor, kind: str, temperature: float | None) -> Tensor:
    """Distance of student logits to soft logits: "mse", "kl" (at a temperature, without the factor T^2) or "dist"."""
    if kind == "mse":
        return F.mse_loss(logits_BK, soft_BK)
    if kind == "kl":
        assert temperature is not None
        target = F.softmax(soft_BK / temperature, dim=1)
        return F.kl_div(F.log_softmax(logits_BK / temperature, dim=1), target, reduction="batchmean")
    return dist_loss(logits_BK, soft_BK)


def dist_loss(logits_BK: Tensor, soft_BK: Tensor, beta: float = 2.0, gamma: float = 2.0) -> Tensor:
    """DIST (Huang et al., 2022): beta (1 - corr over classes) + gamma (1 - corr over the batch) of probabilities."""
    student, teacher = F.softmax(logits_BK, dim=1), F.softmax(soft_BK, dim=1)
    inter = 1 - _correlation(student, teacher).mean()
    intra = 1 - _correlation(student.T, teacher.T).mean()
    return beta * inter + gamma * intra


def hard_loss(logits_BK: Tensor, probabilities_BK: Tensor) -> Tensor:
    """Cross-entropy against class probabilities."""
    return F.cross_entropy(logits_BK, probabilities_BK)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of matching rows."""
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1)
