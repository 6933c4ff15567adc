"""t-SNE of distilled and real images in the features of networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from gvbsm.pictures.figures import CLASS_COLOURS, new_figure, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST_NAME = 14  # letters of a class's name on a line


@dataclass(frozen=True)
class Seen:
    """Features (n,F) of images of the classes that are shown, and their labels (n,)."""

    distilled: np.ndarray
    distilled_labels: np.ndarray
    real: np.ndarray
    real_labels: np.ndarray


def draw(title: str, networks: dict[str, Seen], names: dict[int, str], classes: int, perplexity: float, seed: int) -> Figure:
    """A panel per network: every image a point, its colour the class, its form whether it is distilled.

    `names` are those of the at most ten labels that are shown, of `classes`.
    """
    of = f", {len(names)} of {classes} classes" if len(names) < classes else ""
    figure = new_figure(1 + 5.2 * len(networks), 6, f"{title}{of}: t-SNE of the last layer's input (perplexity {perplexity:g})")
    for axes, (network, seen) in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks.items(), strict=True):
        points = embed(np.concatenate([seen.real, seen.distilled]), perplexity, seed)
        _panel(axes, points[: len(seen.real)], points[len(seen.real) :], seen, names)
        axes.set_title(network, fontsize=11, parse_math=False)
    marks = [
        Line2D([], [], linestyle="none", marker="o", markersize=5, color="0.5", alpha=0.6, label="real (random, training set)"),
        Line2D([], [], linestyle="none", marker="*", markersize=13, color="0.5", markeredgecolor="black", label="distilled"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=2, fontsize=10)
    return figure


def embed(features_NF: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """t-SNE (N,2) that begins with principal components; of fewer images, with fewer neighbours."""
    from sklearn.manifold import TSNE  # a second that other pictures need not spend
    from threadpoolctl import threadpool_limits

    most = max(1.0, (len(features_NF) - 1) / 3)
    with threadpool_limits(1):  # more change the order of sums
        embedding = TSNE(
            perplexity=min(perplexity, most), init="pca", learning_rate="auto", random_state=seed % 2**32, n_jobs=1
        )
        return np.asarray(embedding.fit_transform(features_NF.astype(np.float64)))


def _panel(axes: Axes, real_N2: np.ndarray, distilled_N2: np.ndarray, seen: Seen, names: dict[int, str]) -> None:
    for colour, (label, name) in zip(CLASS_COLOURS, names.items(), strict=False):
        real, distilled = real_N2[seen.real_labels == label], distilled_N2[seen.distilled_labels == label]
        axes.scatter(real[:, 0], real[:, 1], s=14, color=colour, alpha=0.45, linewidths=0)
        axes.scatter(
            distilled[:, 0], distilled[:, 1], s=110, marker="*", color=colour, edgecolors="black", linewidths=0.6, zorder=2
        )
        style: dict[str, Any] = {
            "fontsize": 11,
            "fontweight": "bold",
            "ha": "center",
            "va": "center",
            "zorder": 3,
        }
        x, y = np.median(real, axis=0)
        short = short_name(name, _LONGEST_NAME)
        axes.text(x, y, short, path_effects=[withStroke(linewidth=3, foreground="white")], parse_math=False, **style)
    axes.set_xticks([])
    axes.set_yticks([])
