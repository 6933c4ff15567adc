"""Soft labels: the teachers' mean logits (GBM)."""

from __future__ import annotations

import torch
from torch import Tensor


def teachers_see_mixed(mix: str, mixup_labels: str) -> bool:
    """Whether teachers label the mixed views; as published they do so except for mixup."""
    return mix != "mixup" or mixup_labels == "mixed"


def mean_logits(logits_TBK: Tensor, rescale: bool) -> Tensor:
    """The mean (B,K) over T teachers' logits z_k, each first scaled by mean_j ||z_j|| / ||z_k|| if `rescale`.

    Norms are over the whole batch.
    """
    if rescale:
        norms_T = torch.linalg.vector_norm(logits_TBK.flatten(1), dim=1).clamp_min(torch.finfo(logits_TBK.dtype).tiny)
        logits_TBK = logits_TBK * (norms_T.mean() / norms_T).view(-1, 1, 1)
    return logits_TBK.mean(0)
