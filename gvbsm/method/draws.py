"""Random numbers that are the same on every machine and in every version: a hash of a counter (SplitMix64, Steele et al. 2014).

torch's generators do not promise this, and soft labels are valid only for exactly the views that they were made for.
"""

from __future__ import annotations

import torch
from torch import Tensor

_STEP = 0x9E3779B97F4A7C15
_FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_ALL = 2**64 - 1


def derive(key: int, *parts: int) -> int:
    """Another key (63 bits) for each list of numbers."""
    for part in parts:
        key = _hashed(key ^ part, 1) & (2**63 - 1)
    return key


def bits(key: int, count: int) -> Tensor:
    """(count,) int64, all 64 bits of each random."""
    z = torch.arange(1, count + 1) * _signed(_STEP) + _signed(key)
    for shift, factor in _FACTORS:
        z = (z ^ _shifted(z, shift)) * _signed(factor)
    return z ^ _shifted(z, 31)


def uniform(key: int, count: int) -> Tensor:
    """(count,) float64 in [0, 1): multiples of 2^-53, all exact."""
    return _shifted(bits(key, count), 11).double() * 2.0**-53


def uniform_at(key: int, at: int) -> float:
    """The number at place `at`, counted from 0, of `uniform` with this key."""
    return (_hashed(key, at + 1) >> 11) * 2.0**-53


def up_to(most: int, key: int, count: int) -> Tensor:
    """(count,) int64: 0 to `most`."""
    return (uniform(key, count) * (most + 1)).long()


def permutation(key: int, count: int) -> Tensor:
    """0 to count - 1 in random order, int64."""
    return torch.argsort(bits(key, count), stable=True)


def _hashed(key: int, count: int) -> int:
    """The last of `count` numbers of `bits`, unsigned. Python's integers take a fiftieth of the time of tensors of one."""
    z = (key + count * _STEP) & _ALL
    for shift, factor in _FACTORS:
        z = ((z ^ (z >> shift)) * factor) & _ALL
    return z ^ (z >> 31)


def _shifted(z: Tensor, places: int) -> Tensor:
    """Logical right shift: the shift of int64 itself fills with the sign bit."""
    return (z >> places) & ((1 << (64 - places)) - 1)


def _signed(number: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit number."""
    return (number + 2**63) % 2**64 - 2**63


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the CPU and of this device. `torch.manual_seed` asks all kinds of devices, which
    takes 77 us where torch is built with CUDA, in every step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
