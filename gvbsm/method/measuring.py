"""The moments of the inputs of a teacher's layers as one vector, so that what follows is a few operations for all layers.

The vector holds the means of all segments, then their variances in the same order. A segment is one kind of moments
("channel" or "patch") of one layer's input.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gvbsm.method.moments import Moments, moments, neighbour_weights

Inputs = Mapping[str, Tensor]  # layer -> its input (B,C,H,W)
Parts = Mapping[int, Tensor]  # id of an input -> the parts of its sums (`norm_kernels.norm`)


class Segment(NamedTuple):
    """One kind of moments of a layer's input: `size` means, and as many variances."""

    layer: str
    kind: str
    size: int


def kernels_for(device: torch.device) -> ModuleType | None:
    """`gvbsm.method.kernels`, if they run on this device: CUDA, where Triton is installed (Linux) and finds a C compiler."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return None
    from gvbsm.method import kernels

    return kernels if kernels.can_be_launched() else None


class Measuring:
    """Measures the inputs of layers in the order of `segments`; patches have `patch` x `patch` px.

    On CUDA the maps are summed by `kernels`; elsewhere, in code that torch.compile traces, and for kinds of moments that the
    kernels do not know, by plain operations.
    """

    def __init__(self, segments: Sequence[Segment], patch: int) -> None:
        self.segments, self.patch = segments, patch
        self.size = sum(segment.size for segment in segments)  # of the means
        self._summed = all(kind in ("channel", "patch") for _, kind, _ in segments)  # the kinds that the kernels' sums give
        self._kinds: dict[str, tuple[str, ...]] = {}
        for layer, kind, _ in segments:
            self._kinds[layer] = (*self._kinds.get(layer, ()), kind)
        self._matrices: dict[Any, Any] = {}  # of the kernels, by the shapes of the maps

    def __call__(self, inputs: Inputs, has_gradient: Callable[[str], bool], parts: Parts = MappingProxyType({})) -> Tensor:
        """Moments (2 size,), in at least float32; those of layers without an input are 0. Layers without a gradient are
        measured outside autograd, where that saves time. Maps with `parts` are not read again for sums of channels alone.

        Raises:
            ValueError: if an input gives another number of moments than its segment has.
        """
        some = next(iter(inputs.values()), None)
        if some is None:
            raise ValueError("inputs: expected those of at least one layer, got none")
        is_plain = torch.compiler.is_compiling() or some.dtype == torch.float64 or not self._summed
        kernels = None if is_plain else kernels_for(some.device)
        return self._fused(inputs, kernels, parts) if kernels else self._plain(inputs, has_gradient)

    def by_layer(self, values_2N: Tensor) -> dict[str, Moments]:
        """layer -> its moments, parts of such a vector."""
        result: dict[str, Moments] = {layer: {} for layer in self._kinds}
        parts = iter(values_2N.split([segment.size for segment in self.segments] * 2))
        for moment in ("mean", "var"):
            for (layer, kind, _), part in zip(self.segments, parts, strict=False):
                result[layer][f"{kind}_{moment}"] = part
        return result

    def _plain(self, inputs: Inputs, has_gradient: Callable[[str], bool]) -> Tensor:
        measured = self._moments(inputs, has_gradient)
        values = []
        for moment in ("mean", "var"):
            for layer, kind, size in self.segments:
                value = (
                    measured[layer][f"{kind}_{moment}"] if layer in measured else next(iter(inputs.values())).new_zeros(size)
                )
                self._check(layer, kind, len(value), size)
                values.append(value)
        return torch.cat(values)

    def _moments(self, inputs: Inputs, has_gradient: Callable[[str], bool]) -> dict[str, Moments]:
        """Moments of every input. A tensor that several layers read is measured once; compiled code does so by itself."""
        if torch.compiler.is_compiling():
            return {layer: moments(x_BCHW, self._kinds[layer], self.patch) for layer, x_BCHW in inputs.items()}
        results: dict[str, Moments] = {}
        by_tensor: dict[int, Moments] = {}
        for layer, x_BCHW in inputs.items():
            result = results[layer] = by_tensor.setdefault(id(x_BCHW), {})
            missing = tuple(kind for kind in self._kinds[layer] if f"{kind}_mean" not in result)
            if missing:
                wanted = torch.is_grad_enabled() and any(has_gradient(other) for other, x in inputs.items() if x is x_BCHW)
                with torch.set_grad_enabled(wanted):
                    result |= moments(x_BCHW, missing, self.patch)
        return results

    def _fused(self, inputs: Inputs, kernels: ModuleType, parts: Parts) -> Tensor:
        maps = list({id(x_BCHW): x_BCHW for x_BCHW in inputs.values()}.values())
        kinds = {id(x): self._sums_of([layer for layer in inputs if inputs[layer] is x], x, kernels) for x in maps}
        # First the maps that are read, then those whose layers have summed them.
        maps.sort(key=lambda x: kinds[id(x)] == kernels.CHANNELS and id(x) in parts)
        summed = [parts[id(x)] for x in maps if kinds[id(x)] == kernels.CHANNELS and id(x) in parts]
        read = maps[: len(maps) - len(summed)]
        places = {id(x): at for at, x in enumerate(maps)}
        place_of = {layer: places[id(x_BCHW)] for layer, x_BCHW in inputs.items()}
        shapes, sums_of = [tuple(x.shape) for x in maps], [kinds[id(x)] for x in maps]
        key = tuple(shapes), tuple(sums_of), len(read), tuple(place_of.items())
        if key not in self._matrices:
            rows, columns, weights, width = self._entries(shapes, sums_of, place_of)
            device = maps[0].device
            self._matrices[key] = (
                kernels.places(shapes[: len(read)], sums_of[: len(read)], device),
                kernels.AddedUp.table([part.shape for part in summed], device),
                kernels.Matrix.of(rows, columns, weights, 2 * self.size, device),
                kernels.Matrix.of(columns, rows, weights, width, device),
            )
        places_T5, table_T5, matrix, transposed = self._matrices[key]
        sums = [kernels.map_sums(read, sums_of[: len(read)], places_T5)] if read else []
        sums += [kernels.AddedUp.apply(table_T5, *summed)] if summed else []
        mean, square = kernels.linear(torch.cat(sums), matrix, transposed).chunk(2)
        return torch.cat([mean, square - mean.square()])

    def _sums_of(self, layers: list[str], x_BCHW: Tensor, kernels: ModuleType) -> int:
        """The sums that these layers need of their input."""
        if not any("patch" in self._kinds[layer] for layer in layers):
            return kernels.CHANNELS
        return kernels.NEIGHBOURS if any(side % self.patch for side in x_BCHW.shape[2:]) else kernels.POSITIONS

    def _entries(
        self, shapes: list[tuple[int, ...]], sums_of: list[int], places: dict[str, int]
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """The matrix (2 size, sums) that gives means and mean squares of all segments from the sums of all maps: rows, columns
        and weights of its entries, and the number of sums."""
        starts, width = [], 0
        for (_, channels, height, columns), kinds in zip(shapes, sums_of, strict=True):
            starts.append(width)
            width += 2 * channels + kinds * height * columns
        entries: list[_Entries] = []
        first = 0  # row of the segment
        for layer, kind, size in self.segments:
            if layer in places:
                shape, start = shapes[places[layer]], starts[places[layer]]
                entries_of = _channel_entries(shape) if kind == "channel" else _patch_entries(shape, self.patch)
                self._check(layer, kind, int(entries_of[0][0].max()) + 1, size)
                for half, (row_E, column_E, weight_E) in zip((0, self.size), entries_of, strict=True):
                    entries.append((row_E + first + half, column_E + start, weight_E))
            first += size
        row_E, column_E, weight_E = (torch.cat(parts) for parts in zip(*entries, strict=True))
        return row_E, column_E, weight_E, width

    @staticmethod
    def _check(layer: str, kind: str, got: int, size: int) -> None:
        if got != size:
            raise ValueError(
                f"{kind} moments of layer {layer!r}: expected {size} as in the statistics, got {got}; make the statistics at "
                "this image and patch size"
            )


def calls_of(inputs: Sequence[tuple[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The inputs of each layer's first call in a pass, those of its second, and so on; few networks have a second."""
    calls: list[dict[str, Tensor]] = []
    for name, x_BCHW in inputs:
        number = next((number for number, call in enumerate(calls) if name not in call), len(calls))
        if number == len(calls):
            calls.append({})
        calls[number][name] = x_BCHW
    return calls


_Entries = tuple[Tensor, Tensor, Tensor]  # rows, columns and weights (float64) of a sparse matrix


def _channel_entries(shape: Sequence[int]) -> tuple[_Entries, _Entries]:
    """Mean and mean square of every channel from the sums of a map."""
    batch, channels, height, width = shape
    channel_C = torch.arange(channels)
    weights = torch.full((channels,), 1 / (batch * height * width), dtype=torch.float64)
    return (channel_C, channel_C, weights), (channel_C, channel_C + channels, weights)


def _patch_entries(shape: Sequence[int], patch: int) -> tuple[_Entries, _Entries]:
    """Mean and mean square of every patch of the map resized to a multiple of `patch`, from the sums at its positions."""
    batch, channels, height, width = shape
    down, across = (neighbour_weights(side, patch, torch.empty(0, dtype=torch.float64)) for side in (height, width))
    # Which sum, the weights that its rows and columns have, and a factor: a product of neighbours occurs twice in a square.
    squares = [(1, down[1], across[1], 1.0)]
    if height % patch or width % patch:
        squares += [(2, down[1], across[2], 2.0), (3, down[2], across[1], 2.0), (4, down[2], across[2], 2.0)]
    count = batch * channels * patch * patch

    def entries(number: int, rows_PH: Tensor, columns_QW: Tensor, factor: float) -> _Entries:
        (p, i), (q, j) = rows_PH.nonzero().unbind(1), columns_QW.nonzero().unbind(1)
        weights = factor / count * rows_PH[p, i].unsqueeze(1) * columns_QW[q, j]
        rows = p.unsqueeze(1) * len(columns_QW) + q
        columns = 2 * channels + number * height * width + i.unsqueeze(1) * width + j
        return rows.flatten(), columns.flatten(), weights.flatten()

    of_squares = [entries(*part) for part in squares]
    rows, columns, weights = (torch.cat(parts) for parts in zip(*of_squares, strict=True))
    return entries(0, down[0], across[0], 1.0), (rows, columns, weights)
