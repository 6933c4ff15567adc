"""How soft labels are stored: which logits of a view are kept, and in how many bits (docs/soft-labels.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_LEVELS = {"int8": 2**8, "int4": 2**4}
_INDICES = (torch.uint8, torch.int16, torch.int32)  # the smallest that holds every class
_FLOATS = {"float32": torch.float32, "float16": torch.float16}
Coded = dict[str, Tensor]  # values, low, step, index, rest: each (V, ...)


@dataclass(frozen=True)
class Coding:
    """The field names are the settings'."""

    values: str  # "float32", "float16", or per view "int8" or "int4" between its least and its largest
    top: int | None = None  # the largest logits of a view that are kept; None: all


def encode(logits_VK: Tensor, coding: Coding) -> Coded:
    """Encode float32 logits; what is stored stays on their device.

    Two numbers stand for the logits that are not stored: their mean, which the squared error needs, and their logsumexp,
    from which their share of the probability follows. A CPU and CUDA give the same bytes: equal logits are kept in the order of
    their classes, and sums and divisions by a number, which devices round differently, are in float64.
    """
    coded: Coded = {}
    if coding.top is not None and coding.top < logits_VK.shape[1]:
        index_Vk = _ranks(logits_VK).topk(coding.top).indices.sort(1).values
        kept_VK = torch.zeros_like(logits_VK, dtype=torch.bool).scatter_(1, index_Vk, True)
        wide_VK = logits_VK.double()
        rest_V = wide_VK.masked_fill(kept_VK, 0).sum(1) / (logits_VK.shape[1] - coding.top)
        mass_V = wide_VK.masked_fill_(kept_VK, -math.inf).logsumexp(1)
        coded["index"] = index_Vk.to(next(kind for kind in _INDICES if logits_VK.shape[1] - 1 <= torch.iinfo(kind).max))
        coded["rest"] = torch.stack([rest_V, mass_V], 1).half()
        logits_VK = logits_VK.gather(1, index_Vk)
    if coding.values in _FLOATS:
        return coded | {"values": logits_VK.to(_FLOATS[coding.values])}
    levels = _LEVELS[coding.values]
    low_V1 = logits_VK.amin(1, keepdim=True).half()
    step_V1 = ((logits_VK.amax(1, keepdim=True) - low_V1.float()).double() / (levels - 1)).half()
    # Relative to the stored bounds, which are rounded to float16.
    codes = ((logits_VK - low_V1.float()) / step_V1.float().clamp_min(1e-12)).round().clamp(0, levels - 1).to(torch.uint8)
    return coded | {"values": _packed(codes) if levels == 2**4 else codes, "low": low_V1, "step": step_V1}


def _ranks(logits_VK: Tensor) -> Tensor:
    """Different integers (V,K) in the order of float32 logits; of equal logits, the first class has the largest."""
    bits_VK = logits_VK.contiguous().view(torch.int32)
    ordered_VK = bits_VK ^ ((bits_VK >> 31) & 0x7FFFFFFF)  # negative floats are ordered by their magnitude
    classes = logits_VK.shape[1]
    return (ordered_VK.long() << 32) + torch.arange(classes - 1, -1, -1, device=logits_VK.device)


def decode(coded: Coded, coding: Coding, classes: int, rest: str) -> Tensor:
    """Float32 logits (V,K). The logits of a view that were not stored share one value: their "mean", or the value that gives
    them their probability, "mass"."""
    values = coded["values"]
    if coding.values in _LEVELS:
        stored = classes if coding.top is None else min(coding.top, classes)
        codes = _unpacked(values, stored) if coding.values == "int4" else values
        values = coded["low"].float() + codes * coded["step"].float()
    if "index" not in coded:
        return values.float()
    mean_V1, mass_V1 = coded["rest"].float().split(1, dim=1)
    index_Vk = coded["index"].long()
    fill_V1 = mean_V1 if rest == "mean" else mass_V1 - math.log(classes - index_Vk.shape[1])
    return fill_V1.repeat(1, classes).scatter(1, index_Vk, values.float())


def _packed(codes_VK: Tensor) -> Tensor:
    """Two four-bit codes per byte, the first in the lower bits."""
    if codes_VK.shape[1] % 2:
        codes_VK = torch.cat([codes_VK, codes_VK.new_zeros(len(codes_VK), 1)], 1)
    return codes_VK[:, ::2] | codes_VK[:, 1::2] << 4


def _unpacked(bytes_VB: Tensor, count: int) -> Tensor:
    return torch.stack([bytes_VB & 15, bytes_VB >> 4], 2).flatten(1)[:, :count]
