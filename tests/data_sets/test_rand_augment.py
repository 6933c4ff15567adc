"""RandAugment of views: torchvision's operations, each view by itself."""

import contextlib
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as T

from gvbsm.data.rand_augment import RandAugment
from gvbsm.method.views import OPERATIONS, ViewSettings, draw_views, render

LEVELS = torch.randint(256, (2 * OPERATIONS, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()
EACH_ONCE = torch.arange(2 * OPERATIONS, dtype=torch.uint8).unsqueeze(1)

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="augments on a GPU, and none is here")


@contextlib.contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """On a GPU; elsewhere nothing waits."""
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_does_not_depend_on_the_others(channels):
    levels = LEVELS[:, :channels]
    together = RandAugment(9)(levels, EACH_ONCE)
    for number in range(2 * OPERATIONS):
        alone = RandAugment(9)(levels[number : number + 1], EACH_ONCE[number : number + 1])
        assert torch.equal(alone[0], together[number])
    assert together.min() >= 0 and together.max() <= 255 and torch.equal(together, together.round())


def expected_of(levels: torch.Tensor, number: int, magnitude: int) -> torch.Tensor:
    """What torchvision's functions make of a view; `number` is 2 x the operation's, + 1 if negative."""
    x, sign, strength = levels.round().byte(), -1 if number % 2 else 1, magnitude / 30
    degrees, shift = float(torch.rad2deg(torch.tensor(0.3 * strength).atan())), 150 / 331 * strength
    factor, by = 1 + sign * 0.9 * strength, sign * round(shift * x.shape[-1])

    def moved(angle: float = 0, by: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0, 0)) -> torch.Tensor:
        return T.affine(x, angle, list(by), 1.0, list(shear), interpolation=InterpolationMode.NEAREST)

    operations = [
        lambda: x,
        lambda: moved(shear=(sign * degrees, 0)),
        lambda: moved(shear=(0, sign * degrees)),
        lambda: moved(by=(by, 0)),
        lambda: moved(by=(0, by)),
        lambda: moved(angle=sign * 30 * strength),
        lambda: T.adjust_brightness(x, factor),
        lambda: T.adjust_saturation(x, factor),
        lambda: T.adjust_contrast(x, factor),
        lambda: T.adjust_sharpness(x, factor),
        lambda: T.posterize(x, 8 - round(4 * strength)),
        lambda: T.solarize(x, 255 * (1 - strength)),
        lambda: T.autocontrast(x),
        lambda: T.equalize(x),
    ]
    return operations[number // 2]().float()


def varied(channels: int, size: int) -> torch.Tensor:
    """Views of noise, of smooth shapes, of few levels and of one level, each once for every operation; levels are not whole."""
    generator = torch.Generator().manual_seed(size)
    noise = 255 * torch.rand(1, channels, size, size, generator=generator)
    small = 255 * torch.rand(1, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(small, size=(size, size), mode="bilinear")
    few = 40 + 3 * torch.randint(3, (1, channels, size, size), generator=generator).float()
    return torch.cat([noise, smooth, few, torch.full_like(noise, 77)])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [2, 8, 33, 64])
@pytest.mark.parametrize("magnitude", [0, 1, 9, 17, 30])
def test_every_operation_is_torchvisions_to_the_byte(channels, size, magnitude):
    kinds = varied(channels, size)
    levels = kinds.repeat(2 * OPERATIONS, 1, 1, 1)
    numbers = torch.arange(2 * OPERATIONS).repeat_interleave(len(kinds))
    shuffled = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    done = RandAugment(magnitude)(levels[shuffled], numbers[shuffled].byte().unsqueeze(1))
    for place, view in enumerate(shuffled.tolist()):
        assert torch.equal(done[place], expected_of(levels[view], int(numbers[view]), magnitude)), int(numbers[view])


# A sum of 36 levels and one level among them, for which a rounded mean moves the blend to the next level.
@pytest.mark.parametrize(("magnitude", "number", "total", "level"), [(9, 16, 1124, 109), (30, 16, 68, 3), (30, 17, 68, 23)])
def test_contrast_is_torchvisions_where_means_are_products_with_a_rounded_inverse(magnitude, number, total, level, monkeypatch):
    """As on CUDA, and so are its divisions by numbers."""
    others, more = divmod(total - level, 35)
    x = torch.tensor([level] + [others + 1] * more + [others] * (35 - more)).float().view(1, 1, 6, 6)
    expected, inverse, divide = expected_of(x, number, magnitude), torch.tensor(1 / 36), torch.Tensor.__truediv__
    monkeypatch.setattr(torch.Tensor, "mean", lambda x, over: x.sum(over) * inverse)
    monkeypatch.setattr(
        torch.Tensor, "__truediv__", lambda x, by: divide(x, by) if isinstance(by, torch.Tensor) else x * torch.tensor(1 / by)
    )
    assert torch.equal(RandAugment(magnitude)(x, torch.tensor([[number]], dtype=torch.uint8)), expected)


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_the_result_is_torchvisions_on_every_device_without_waiting_for_it(device, size):
    levels, numbers = varied(3, size).repeat(2 * OPERATIONS, 1, 1, 1), EACH_ONCE.repeat_interleave(4, 0)
    augment, on_device = RandAugment(9), levels.to(device)
    augment(on_device, numbers)  # makes the tables
    with waiting_is_an_error():
        done = augment(on_device, numbers)
    for view in range(len(levels)):
        assert torch.equal(done[view].cpu(), expected_of(levels[view], int(numbers[view]), 9)), view


class Counted(TorchDispatchMode):
    """Counts the operations, and collects those that wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_the_number_of_calls_does_not_grow_with_the_number_of_views():
    augment = RandAugment(9)
    augment(LEVELS, EACH_ONCE)
    calls = []
    for times in (1, 20):
        with Counted() as counted:
            augment(LEVELS.repeat(times, 1, 1, 1), EACH_ONCE.repeat(times, 1))
        calls.append(len(counted.names))
        assert not [name for name in counted.names if "nonzero" in name or "_local_scalar_dense" in name]
    assert calls[0] == calls[1] < 150


def test_operations_are_what_their_numbers_say():
    done = RandAugment(30)(LEVELS, EACH_ONCE)
    bytes_ = LEVELS.byte()
    assert torch.equal(done[0], LEVELS[0])
    assert torch.equal(done[12], T.adjust_brightness(bytes_[12], 1.9).float())
    assert torch.equal(done[13], T.adjust_brightness(bytes_[13], 0.1).float())
    assert torch.equal(done[26], T.equalize(bytes_[26]).float())
    moved = round(32 * 150 / 331)
    assert torch.equal(done[6, :, :, moved:], LEVELS[6, :, :, :-moved]) and not done[6, :, :, :moved].any()
    assert torch.equal(done[9, :, :-moved], LEVELS[9, :, moved:])


def test_without_strength_little_happens():
    done = RandAugment(0)(LEVELS, EACH_ONCE)
    still = [number for number in range(2 * OPERATIONS) if number // 2 < 11]  # the rest stretch or invert whatever the strength
    assert torch.equal(done[still], LEVELS[still])


def test_operations_are_done_one_after_another_before_mixing():
    images = LEVELS[:6].byte()
    settings = ViewSettings(6, (1.0, 1.0), (1.0, 1.0), False, "cutmix", 1.0, operations=2)
    views = draw_views(6, 32, settings, 0)
    views = dataclasses.replace(views, operation_VR=torch.tensor([[12, 22]] * 6, dtype=torch.uint8))
    both = T.solarize(T.adjust_brightness(images, 1.27), 255 * 0.7)
    expected = render(both, dataclasses.replace(views, operation_VR=None), torch.arange(6))
    assert torch.equal(render(images, views, torch.arange(6), augment=RandAugment(9)), expected)
