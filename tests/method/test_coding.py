"""Codings of soft labels: what is lost, and what is not."""

import math

import numpy as np
import pytest
import torch

from gvbsm.config.labels import Coding as CodingSettings
from gvbsm.method.coding import Coding, decode, encode
from gvbsm.pipeline.relabel import bytes_per_view

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="encodes on a GPU, and none is here")


def logits(count: int = 50, classes: int = 13) -> torch.Tensor:
    return 4 * torch.randn(count, classes, generator=torch.Generator().manual_seed(0))


def roundtrip(x: torch.Tensor, coding: Coding, rest: str = "mean") -> torch.Tensor:
    return decode(encode(x, coding), coding, x.shape[1], rest)


def test_floats_are_rounded_to_their_format_alone():
    x = logits()
    assert torch.equal(roundtrip(x, Coding("float32")), x)
    assert torch.equal(roundtrip(x, Coding("float16")), x.half().float())


@pytest.mark.parametrize(("values", "levels"), [("int8", 256), ("int4", 16)])
@pytest.mark.parametrize("classes", [10, 13])
def test_integers_are_within_half_a_step(values, levels, classes):
    x = logits(classes=classes)
    step = (x.amax(1) - x.amin(1)) / (levels - 1)
    error = (roundtrip(x, Coding(values)) - x).abs().amax(1)
    assert (error <= 0.51 * step + 0.01).all() and error.max() > 0.2 * step.mean()


@pytest.mark.parametrize(("classes", "size"), [(256, 1), (257, 2), (32_768, 2), (32_769, 4)])
def test_the_last_class_is_kept_among_any_number_of_classes(classes, size):
    x = logits(count=2, classes=classes)
    x[:, -1] = 100.0
    coding = Coding("float32", top=3)
    assert encode(x, coding)["index"].itemsize == size
    assert (roundtrip(x, coding)[:, -1] == 100.0).all()


@pytest.mark.parametrize("values", ["float16", "int8", "int4"])
def test_bytes_of_a_view(values):
    coded = encode(logits(classes=1000), Coding(values, top=20))
    size = sum(tensor[0].nbytes for tensor in coded.values())
    assert size == {"float16": 40, "int8": 20 + 4, "int4": 10 + 4}[values] + 40 + 4


@pytest.mark.parametrize("values", ["float32", "float16", "int8", "int4"])
@pytest.mark.parametrize(("classes", "top"), [(10, None), (7, None), (7, 9), (7, 3), (256, 4), (257, 4), (40_000, 5)])
def test_bytes_are_known_before_anything_is_coded(values, classes, top):
    coded = encode(logits(2, classes), Coding(values, top))
    expected = sum(tensor[0].nbytes for tensor in coded.values())
    assert bytes_per_view(CodingSettings(values=values, top=top), classes) == expected


def in_numpy(x: np.ndarray, coding: Coding) -> dict[str, np.ndarray]:
    """The format of docs/soft-labels.md, written a second time: what any device must give."""
    coded = {}
    if coding.top is not None and coding.top < x.shape[1]:
        index = np.sort(np.argsort(-x, 1, kind="stable")[:, : coding.top], 1)
        rest = np.ones(x.shape, bool)
        np.put_along_axis(rest, index, False, 1)
        others = x[rest].reshape(len(x), -1).astype(np.float64)
        coded["index"] = index.astype(np.uint8 if x.shape[1] <= 256 else np.int16)
        both = [others.mean(1), np.log(np.exp(others - others.max(1, keepdims=True)).sum(1)) + others.max(1)]
        coded["rest"] = np.stack(both, 1).astype(np.float32).astype(np.float16)
        x = np.take_along_axis(x, index, 1)
    if coding.values == "float16":
        return coded | {"values": x.astype(np.float16)}
    low = x.min(1, keepdims=True).astype(np.float16)
    step = ((x.max(1, keepdims=True) - low.astype(np.float32)) / np.float32(255)).astype(np.float16)
    codes = np.round((x - low.astype(np.float32)) / np.maximum(step.astype(np.float32), np.float32(1e-12))).clip(0, 255)
    return coded | {"values": codes.astype(np.uint8), "low": low, "step": step}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("values", ["float16", "int8"])
@pytest.mark.parametrize("top", [None, 20])
@pytest.mark.parametrize("classes", [100, 1000])
def test_bytes_are_the_same_on_every_device(device, values, top, classes):
    """Also with equal logits, of which bfloat16 makes many: the first classes are kept."""
    x = logits(200, classes)
    x[100:] = x[100:].bfloat16().float()
    coding = Coding(values, top)
    coded = encode(x.to(device), coding)
    expected = in_numpy(x.numpy(), coding)
    assert coded.keys() == expected.keys()
    for name, tensor in coded.items():
        assert tensor.device.type == device
        assert np.array_equal(tensor.cpu().numpy(), expected[name]), name


def test_equal_logits_stay_equal():
    x = torch.full((3, 10), 1.5)
    assert torch.equal(roundtrip(x, Coding("int4")), x)


def test_logits_that_are_not_kept_have_their_mean_or_their_mass():
    x = logits(classes=300)
    mean, mass = (roundtrip(x, Coding("float32", top=5), rest) for rest in ("mean", "mass"))
    index = x.topk(5).indices
    for decoded in (mean, mass):
        torch.testing.assert_close(decoded.gather(1, index), x.gather(1, index))
    torch.testing.assert_close(mean.mean(1), x.mean(1), rtol=0, atol=0.01)
    torch.testing.assert_close(mass.softmax(1).gather(1, index), x.softmax(1).gather(1, index), rtol=0.01, atol=1e-4)
    assert not torch.allclose(mean, mass)


def test_the_top_of_all_classes_loses_nothing():
    x = logits(classes=10)
    assert torch.equal(roundtrip(x, Coding("float32", top=10)), x)


def test_known_bytes():
    """What docs/soft-labels.md says of int4."""
    coded = encode(torch.tensor([[0.0, 15.0, 7.0]]), Coding("int4"))
    assert coded["values"].tolist() == [[0xF0, 0x07]] and coded["low"].item() == 0 and coded["step"].item() == 1
    assert math.isclose(decode(coded, Coding("int4"), 3, "mean")[0, 2].item(), 7)
