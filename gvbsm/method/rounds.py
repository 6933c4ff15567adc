"""Iterations in parts of equal length: segments, and rounds in which images join. Without torch: planning counts steps."""

from __future__ import annotations

from collections.abc import Iterable


def first_iterations(iterations: int, parts: int) -> list[int]:
    """The first iteration of each part; iteration t is in part floor(t parts / iterations)."""
    return [-(-part * iterations // parts) for part in range(parts)]


def join_rounds(images: int, rounds: int) -> list[int]:
    """The round in which each of a class's images joins, in their order (DELT, Shen et al. 2024).

    As many join in each round as can be equal; where they are not, one more in each of the first rounds. An image that joins in
    round r of n takes part in all later ones too: in T - ceil(r T / n) of T iterations.
    """
    each, more = divmod(images, rounds)
    return [round_ for round_ in range(rounds) for _ in range(each + (round_ < more))]


def image_steps(classes: Iterable[int], iterations: int, rounds: int) -> int:
    """The iterations of all images of a batch, summed; `classes`: its number of images of each class."""
    firsts = first_iterations(iterations, rounds)
    return sum(iterations - firsts[joins] for images in classes for joins in join_rounds(images, rounds))
