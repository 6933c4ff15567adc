"""Losses of a student."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

# What a loss needs of logits that are not stored: those of logits their mean, those of probabilities their mass.
REST = {"mse": "mean", "gift": "mean", "kl": "mass", "dist": "mass"}


def soft_loss(
    logits_BK: Tensor, soft_BK: Tensor, kind: str, temperature: float | None, hard_BK: Tensor | None = None
) -> Tensor:
    """Distance of student logits to soft logits: "mse", "kl" (at a temperature, without the factor T^2), "dist", or "gift",
    which takes the class probabilities `hard_BK` too."""
    if kind == "mse":
        return F.mse_loss(logits_BK, soft_BK)
    if kind == "kl":
        assert temperature is not None
        target = F.softmax(soft_BK / temperature, dim=1)
        return F.kl_div(F.log_softmax(logits_BK / temperature, dim=1), target, reduction="batchmean")
    if kind == "gift":
        assert hard_BK is not None
        return gift_loss(logits_BK, soft_BK, hard_BK)
    return dist_loss(logits_BK, soft_BK)


def gift_loss(logits_BK: Tensor, soft_BK: Tensor, hard_BK: Tensor, weight: float = 0.1, smoothing: float = 0.1) -> Tensor:
    """GIFT (Shang et al., 2025): 1 - cos(z, y), y = t / |t| + weight h / |h|, for student logits z, teacher logits t and the
    smoothed class probabilities h. A class of probability p has p (1 - s) + (1 - p) s / (K - 1) of them."""
    share = smoothing / (hard_BK.shape[1] - 1)  # of every class but one's own
    smoothed = share + hard_BK * (1 - smoothing - share)
    target = F.normalize(soft_BK, dim=1) + weight * F.normalize(smoothed, dim=1)
    return 1 - F.cosine_similarity(logits_BK, target, dim=1).mean()


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
