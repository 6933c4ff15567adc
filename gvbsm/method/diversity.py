"""Diversity of the images of a class in the feature space of a network."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_cosine_distance(features_NF: Tensor, labels_N: Tensor, classes: int) -> Tensor:
    """Mean over all pairs of different images of a class of 1 - cos(f_i, f_j): float64 (K,), NaN where there is no pair.

    For unit vectors u_i the cosines of all pairs sum to (|sum u_i|^2 - n) / 2, so the pairs are not enumerated. The expected
    value does not depend on the number of images.
    """
    unit_NF = torch.nn.functional.normalize(features_NF.double(), dim=1)
    sums_KF = torch.zeros(classes, features_NF.shape[1], dtype=torch.float64).index_add_(0, labels_N, unit_NF)
    count_K = torch.bincount(labels_N, minlength=classes).double()
    cosine_K = (sums_KF.square().sum(1) - count_K) / (count_K * (count_K - 1))
    return torch.where(count_K > 1, (1 - cosine_K).clamp_min(0), torch.nan)
