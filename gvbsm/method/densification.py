"""Data densification, L_DD (paper section 3.1): sharpen the spectrum of each class's Gram matrix."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# px. Smaller images are enlarged to this size by repeating pixels: at 16 px every eigenvalue becomes four times as large.
# The golden figures need this; it has no effect on normalised eigenvalues.
POOLED = 32


def gram_eigenvalues(x_GNF: Tensor) -> Tensor:
    """Eigenvalues (G,N), ascending, of the Gram matrices X X^T of G classes with N images of F values."""
    return torch.linalg.eigvalsh(x_GNF @ x_GNF.transpose(1, 2))


def densification_loss(x_BCHW: Tensor, labels_B: Tensor, tau: float, normalise: str) -> Tensor:
    """L_DD = sum_y KL( stopgrad softmax(e / tau) || softmax(e) ), e the eigenvalues of class y's Gram matrix.

    `normalise`: "none" (published; the eigenvalues of real images are thousands, both softmaxes saturate and loss and
    gradient are 0), "mean" (eigenvalues divided by their mean) or "rows" (images scaled to unit norm first).
    Computed in at least float32. A class with one image adds nothing.
    """
    rows_BF = F.adaptive_avg_pool2d(x_BCHW, POOLED).flatten(1)
    rows_BF = rows_BF.to(torch.promote_types(rows_BF.dtype, torch.float32))
    if normalise == "rows":
        rows_BF = F.normalize(rows_BF)
    loss = rows_BF.new_zeros(())
    order_B = torch.argsort(labels_B, stable=True)
    counts = torch.unique_consecutive(labels_B[order_B], return_counts=True)[1]
    starts = counts.cumsum(0) - counts
    for count in counts.unique().tolist():  # one batched decomposition for all classes with the same number of images
        index_GN = starts[counts == count, None] + torch.arange(count, device=labels_B.device)
        e_GN = gram_eigenvalues(rows_BF[order_B[index_GN]])
        if normalise == "mean":
            e_GN = e_GN / e_GN.mean(1, keepdim=True).clamp_min(torch.finfo(e_GN.dtype).tiny)
        target_GN = F.softmax(e_GN.detach() / tau, dim=1)
        loss = loss + F.kl_div(F.log_softmax(e_GN, dim=1), target_GN, reduction="sum")
    return loss
