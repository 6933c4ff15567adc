"""Real images from which synthetic images start: crops with a high confidence of the teachers, several packed into one image.

Confidence and packing are RDED's (Sun et al., CVPR 2024): a lower cross-entropy of the teachers is a higher confidence. Views
drawn from the cells (views.py) are the multi-formation of IDC (Kim et al., ICML 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def shrink(levels_NCHW: Tensor, cells: int) -> Tensor:
    """Images in levels 0..255 reduced to 1/`cells` of their side by average pooling: uint8 (N,C,S/cells,S/cells)."""
    return F.avg_pool2d(levels_NCHW.float(), cells).round().to(torch.uint8)


def enlarge(small_NCss: Tensor, size: int) -> Tensor:
    """Small uint8 images enlarged bilinearly to a network's input size: float levels (N,C,size,size)."""
    levels = small_NCss.float()
    return levels if levels.shape[-1] == size else F.interpolate(levels, (size, size), mode="bilinear", align_corners=False)


def pack(small_NCss: Tensor, cells: int) -> Tensor:
    """Every cells^2 images side by side in one: (N/cells^2, C, cells s, cells s), row by row."""
    count, channels, side = len(small_NCss) // cells**2, *small_NCss.shape[1:3]
    grid = small_NCss.view(count, cells, cells, channels, side, side)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(count, channels, cells * side, cells * side)


def cross_entropy(logits_TNK: Tensor, label: int) -> Tensor:
    """Mean over T teachers of the cross-entropy of N images of one class: (N,)."""
    return -torch.log_softmax(logits_TNK, dim=2)[:, :, label].mean(0)


def entropy(logits_TNK: Tensor) -> Tensor:
    """Entropy (N,) of the mean over T teachers of the predicted probabilities."""
    probability_NK = torch.softmax(logits_TNK, dim=2).mean(0)
    return torch.special.entr(probability_NK).sum(1)


def by_loss(loss_N: Tensor, choose: str) -> Tensor:
    """The images in the order in which they are chosen, (N,) int64, by their cross-entropy: "confidence": the least first;
    "hard": the most; "medium": those in the middle of the order, then outwards, of two equally near the surer one."""
    order_N = loss_N.argsort(descending=choose == "hard", stable=True)
    if choose != "medium":
        return order_N
    rank_N = torch.arange(len(order_N))
    return order_N[(2 * rank_N - (len(order_N) - 1)).abs().argsort(stable=True)]


def dealt(ranked_N: Tensor, cells: int) -> Tensor:
    """Ranked images in the order in which `pack` takes them: of n packed images, image i gets the ranks i, n + i, 2 n + i, ...,
    as in RDED, so that the surest ones are not all in one."""
    return ranked_N.view(cells**2, -1).T.flatten()


def joined_features(features: list[Tensor]) -> Tensor:
    """The concatenated features (N, sum F) of T teachers, each teacher's (N,F) scaled to a mean squared norm of 1."""
    return torch.cat([part / part.square().sum(1).mean().sqrt().clamp_min(1e-12) for part in features], dim=1)


def nearest(features_NF: Tensor, centres_kF: Tensor) -> Tensor:
    """For each of k <= N centres, in order, the nearest image not yet chosen: (k,) int64."""
    distances_kN = torch.cdist(centres_kF, features_NF)
    chosen = []
    for distances_N in distances_kN:
        chosen.append(int(distances_N.argmin()))
        distances_kN[:, chosen[-1]] = torch.inf
    return torch.tensor(chosen)


def nearest_and_unsure(features_NF: Tensor, centres_kF: Tensor, entropy_N: Tensor, count: int) -> Tensor:
    """The nearest image of each of k centres, then `count` - k <= k others, one of each of the first clusters: that with the
    greatest entropy (of all images, where a cluster has no other). (count,) int64. After BPS (CVPR 2026)."""
    chosen = nearest(features_NF, centres_kF).tolist()
    cluster_N = torch.cdist(features_NF, centres_kF).argmin(1)
    for cluster in range(count - len(chosen)):
        free_N = torch.ones(len(entropy_N), dtype=torch.bool)
        free_N[chosen] = False
        inside_N = free_N & (cluster_N == cluster)
        chosen.append(int(entropy_N.masked_fill(~(inside_N if inside_N.any() else free_N), -torch.inf).argmax()))
    return torch.tensor(chosen)
