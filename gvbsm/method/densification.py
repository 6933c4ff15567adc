"""Data densification, L_DD (paper section 3.1): sharpen the spectrum of each class's Gram matrix."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# px. Smaller images are enlarged to this size by repeating pixels: at 16 px every eigenvalue becomes four times as large.
# The golden figures need this; it has no effect on normalised eigenvalues.
POOLED = 32


def densification_loss(x_BCHW: Tensor, labels_B: Tensor, tau: float, normalise: str) -> Tensor:
    """L_DD = sum_y KL( stopgrad softmax(e / tau) || softmax(e) ), e the eigenvalues of class y's Gram matrix.

    `normalise`: "none" (published; the eigenvalues of real images are thousands, both softmaxes saturate and loss and
    gradient are 0), "mean" (eigenvalues divided by their mean) or "rows" (images scaled to unit norm first).
    Computed in at least float32. A class with one image adds nothing.
    """
    return spectrum_loss(gram_matrices(x_BCHW, class_groups(labels_B), normalise), tau, normalise)


def class_groups(labels_B: Tensor) -> list[Tensor]:
    """The positions (G,N) of the images of all G classes that have N of them, for every N that occurs. Waits for the device."""
    order_B = torch.argsort(labels_B, stable=True)
    counts = torch.unique_consecutive(labels_B[order_B], return_counts=True)[1]
    starts = counts.cumsum(0) - counts
    steps = [(starts[counts == count, None], torch.arange(count, device=labels_B.device)) for count in counts.unique().tolist()]
    return [order_B[starts_G1 + step_N] for starts_G1, step_N in steps]


def gram_matrices(x_BCHW: Tensor, groups: list[Tensor], normalise: str) -> list[Tensor]:
    """The Gram matrices X X^T, (G,N,N), of each group's G classes with N images."""
    rows_BF = F.adaptive_avg_pool2d(x_BCHW, POOLED).flatten(1)
    rows_BF = rows_BF.to(torch.promote_types(rows_BF.dtype, torch.float32))
    if normalise == "rows":
        rows_BF = F.normalize(rows_BF)
    # Selected by one flat index: the gradient of `rows_BF[index_GN]` sorts the index and looks for doubles in it.
    x_of_groups = [rows_BF.index_select(0, index_GN.flatten()).unflatten(0, index_GN.shape) for index_GN in groups]
    return [x_GNF @ x_GNF.transpose(1, 2) for x_GNF in x_of_groups]


def spectrum_loss(grams: list[Tensor], tau: float, normalise: str) -> Tensor:
    """L_DD of the Gram matrices, one batched decomposition for each of them."""
    loss = grams[0].new_zeros(())
    for gram_GNN in grams:
        # In the oldest torch that is supported MPS has no eigenvalues.
        e_GN = torch.linalg.eigvalsh(gram_GNN.cpu() if gram_GNN.device.type == "mps" else gram_GNN).to(gram_GNN.device)
        if normalise == "mean":
            e_GN = e_GN / e_GN.mean(1, keepdim=True).clamp_min(torch.finfo(e_GN.dtype).tiny)
        target_GN = F.softmax(e_GN.detach() / tau, dim=1)
        loss = loss + F.kl_div(F.log_softmax(e_GN, dim=1), target_GN, reduction="sum")
    return loss


class TangentLoss:
    """L_DD for a recorded iteration, which cannot decompose a matrix, since that waits for the device: before it, `move` takes
    value and gradient at its Gram matrices on the CPU, into tensors that the iteration reads."""

    def __init__(self, groups: list[Tensor], tau: float, normalise: str, device: torch.device) -> None:
        self._tau, self._normalise = tau, normalise
        self._value = torch.zeros((), device=device)
        self._slopes = [torch.zeros(*index_GN.shape, index_GN.shape[1], device=device) for index_GN in groups]

    def move(self, grams: list[Tensor]) -> None:
        """To these matrices."""
        on_cpu = [gram_GNN.detach().cpu().requires_grad_() for gram_GNN in grams]
        with torch.enable_grad():
            value = spectrum_loss(on_cpu, self._tau, self._normalise)
        gradients = torch.autograd.grad(value, on_cpu)
        self._value.copy_(value.detach())
        for slope_GNN, gradient_GNN in zip(self._slopes, gradients, strict=True):
            slope_GNN.copy_(gradient_GNN)

    def __call__(self, grams: list[Tensor]) -> Tensor:
        """The loss at the matrices that it was moved to."""
        loss = self._value
        for gram_GNN, slope_GNN in zip(grams, self._slopes, strict=True):
            loss = loss + (slope_GNN * (gram_GNN - gram_GNN.detach())).sum()
        return loss
