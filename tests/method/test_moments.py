"""Moments against torch's own, and what the golden figures do not cover."""

import pytest
import torch
from torch.nn import functional as F

from gvbsm.method.moments import (
    Accumulator,
    ClassAccumulator,
    Spread,
    batch_sums,
    class_moments,
    class_sums,
    moments,
    overlapping_patch_moments,
    with_squares,
)


def plain_moments(x, patch):
    """The definitions of docs/method.md, word by word."""
    size = [-(-side // patch) * patch for side in x.shape[-2:]]
    resized = x if size == list(x.shape[-2:]) else F.interpolate(x, size, mode="bilinear", align_corners=False)
    patches = [
        resized[:, :, row : row + patch, column : column + patch]
        for row in range(0, size[0], patch)
        for column in range(0, size[1], patch)
    ]
    return {
        "channel_mean": x.mean((0, 2, 3)),
        "channel_var": x.var((0, 2, 3), correction=0),
        "patch_mean": torch.stack([p.mean() for p in patches]),
        "patch_var": torch.stack([p.var(correction=0) for p in patches]),
    }


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("shape", "patch"), [((3, 5, 8, 8), 4), ((3, 5, 7, 9), 4), ((2, 3, 1, 1), 4), ((2, 1, 5, 4), 3), ((3, 40, 16, 17), 16)]
)
def test_values_and_gradients(shape, patch, layout):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64).to(memory_format=layout)
    weights = {name: torch.randn_like(value) for name, value in plain_moments(x, patch).items()}
    gradients = []
    for function in (lambda y: moments(y, ("channel", "patch"), patch), lambda y: plain_moments(y, patch)):
        y = x.clone().requires_grad_()
        result = function(y)
        sum((weights[name] * value).sum() for name, value in result.items()).backward()
        gradients.append((result, y.grad))
    for name, value in gradients[1][0].items():
        torch.testing.assert_close(gradients[0][0][name], value)
    torch.testing.assert_close(gradients[0][1], gradients[1][1])


def test_half_precision_is_summed_in_float32():
    x = torch.full((4096, 1, 1, 1), 0.1, dtype=torch.bfloat16)
    total, _ = batch_sums(x)
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(4096 * float(x[0, 0, 0, 0]), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [2, 16])  # from 8,192 values an image, maps are added one by one
def test_sums_of_small_and_large_maps(size, layout, dtype):
    torch.manual_seed(0)
    x = torch.randn(30, 40, size, size).to(dtype).to(memory_format=layout)
    total, square = batch_sums(x)
    assert (total.shape, total.dtype) == ((40, size, size), torch.float32)
    torch.testing.assert_close(total.double(), x.double().sum(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(square.double(), x.double().square().sum(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["channel", "patch"])
def test_variance_pooled_and_published(kind):
    """Fault 4: published is the mean of batch variances, corrected the variance of all samples together."""
    torch.manual_seed(0)
    batches = [torch.randn(n, 3, 8, 8, dtype=torch.float64) + shift for n, shift in ((5, 0.0), (3, 2.0), (1, -4.0))]
    results = {}
    for variance in ("mean_of_batches", "pooled"):
        accumulator = Accumulator(variance)
        for batch in batches:
            of_batch = moments(batch, (kind,), 4)
            accumulator.add(with_squares(torch.cat([of_batch[f"{kind}_mean"], of_batch[f"{kind}_var"]])), len(batch))
            accumulator = Accumulator(variance, **accumulator.state())
        results[variance] = dict(zip((f"{kind}_mean", f"{kind}_var"), accumulator.result().chunk(2), strict=True))
    expected = plain_moments(torch.cat(batches), 4)
    parts = [plain_moments(batch, 4)[f"{kind}_var"] * len(batch) for batch in batches]
    torch.testing.assert_close(results["pooled"][f"{kind}_var"], expected[f"{kind}_var"])
    torch.testing.assert_close(results["pooled"][f"{kind}_mean"], expected[f"{kind}_mean"])
    torch.testing.assert_close(results["mean_of_batches"][f"{kind}_var"], sum(parts) / 9)
    assert (results["pooled"][f"{kind}_var"] > results["mean_of_batches"][f"{kind}_var"]).all()


@pytest.mark.parametrize(
    ("shape", "patch"), [((5, 7), 4), ((7, 14), 16), ((1, 1), 16), ((28, 3), 16), ((16, 17), 16), ((8, 8), 4)]
)
def test_patch_moments_without_the_resized_map(shape, patch):
    x = torch.randn(3, 2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 3
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    mean, var = overlapping_patch_moments(mine, patch)
    expected = plain_moments(theirs, patch)
    torch.testing.assert_close(mean, expected["patch_mean"])
    torch.testing.assert_close(var, expected["patch_var"])
    (mean.sum() + (var * torch.arange(len(var))).sum()).backward()
    (expected["patch_mean"].sum() + (expected["patch_var"] * torch.arange(len(var))).sum()).backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_half_precision_keeps_the_sums_wide():
    x = (torch.randn(8, 16, 7, 7, generator=torch.Generator().manual_seed(0)) * 0.3 + 1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mean, var = overlapping_patch_moments(x, 16)
    expected = plain_moments(x.float(), 16)
    torch.testing.assert_close(mean, expected["patch_mean"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(var, expected["patch_var"], rtol=1e-4, atol=1e-5)


def test_half_precision_keeps_the_sums_of_classes_wide():
    x = (torch.randn(20, 16, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.3 + 1).bfloat16()
    members = (torch.arange(2).unsqueeze(1) == torch.arange(20) % 2).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mean, var = class_moments(x, members)
    for label in range(2):
        torch.testing.assert_close(mean[label], x[label::2].float().mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(var[label], x[label::2].float().var((0, 2, 3), unbiased=False), rtol=1e-4, atol=1e-5)


def test_moments_of_classes_are_those_of_their_images_alone():
    x = torch.randn(7, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([2, 0, 2, 2, 0, 1, 1])
    members = (torch.arange(3).unsqueeze(1) == labels).double()
    mean, var = class_moments(x, members)
    pooled = ClassAccumulator(3)
    for part in torch.arange(7).split(3):
        pooled.add(class_sums(x[part]), x[0, 0].numel(), labels[part])
        pooled = ClassAccumulator(3, **pooled.state())
    for label in range(3):
        expected = moments(x[labels == label], ("channel",), 4)
        torch.testing.assert_close(mean[label], expected["channel_mean"])
        torch.testing.assert_close(var[label], expected["channel_var"])
    torch.testing.assert_close(pooled.result()["class_mean"], mean)
    torch.testing.assert_close(pooled.result()["class_var"], var)


def test_importance_is_the_distance_of_noise_in_spreads_of_batches():
    generator = torch.Generator().manual_seed(0)
    batches = 1 + torch.randn(500, 14, dtype=torch.float64, generator=generator)
    spread = Spread()
    for batch in batches:
        spread.add(with_squares(batch), 8)
        spread = Spread(**spread.state())
    noise = torch.arange(14, dtype=torch.float64)
    expected = []
    for means, variances in ((slice(0, 4), slice(7, 11)), (slice(4, 7), slice(11, 14))):
        off = [(noise - batches.mean(0))[part].norm() for part in (means, variances)]
        spreads = [(batches - batches.mean(0))[:, part].square().sum(1).mean().sqrt() for part in (means, variances)]
        expected.append(float(off[0] / spreads[0] + off[1] / spreads[1]) / 2)
    importance = spread.importance(with_squares(noise), [4, 3])
    assert importance == pytest.approx(expected) and min(importance) > 3
