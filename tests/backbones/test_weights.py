"""Foreign state dicts load by name or by order, and what does not fit is refused in one line."""

import pytest
import torch
from torch import Tensor, nn

from gvbsm.backbones.build import build
from gvbsm.backbones.weights import load_by_order

COUNTER = "num_batches_tracked"


def network() -> nn.Module:
    return build("wrn16_2", classes=3, image_size=16, depth=10, widen=1)


def state(seed: int = 1) -> dict[str, Tensor]:
    """A state dict of `network` with random entries, the batch counters included."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(100, value.shape, generator=generator).to(value.dtype)
        for name, value in network().state_dict().items()
    }


def renamed(entries: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same entries under another implementation's names, which end as ours do."""
    return {f"layer{i}.{name.rpartition('.')[2]}": value for i, (name, value) in enumerate(entries.items())}


def assert_equal(net: nn.Module, expected: dict[str, Tensor], counters: bool = True) -> None:
    for name, value in net.state_dict().items():
        if counters or not name.endswith(COUNTER):
            assert torch.equal(value, expected[name]), name


def test_equal_names_load_by_name_in_any_order() -> None:
    net, entries = network(), state()
    load_by_order(net, dict(reversed(entries.items())))
    assert_equal(net, entries)


def test_other_names_load_by_order() -> None:
    net, entries = network(), state()
    load_by_order(net, renamed(entries))
    assert_equal(net, entries)


def test_names_that_say_nothing_load_by_order() -> None:
    net, entries = network(), state()
    values = [value for name, value in entries.items() if not name.endswith(COUNTER)]
    load_by_order(net, {str(index): value for index, value in enumerate(values)})
    assert_equal(net, entries, counters=False)


@pytest.mark.parametrize("rename", [dict, renamed])
def test_batch_counters_may_be_missing(rename) -> None:  # type: ignore[no-untyped-def]
    net, entries = network(), state()
    load_by_order(net, rename({name: value for name, value in entries.items() if not name.endswith(COUNTER)}))
    assert_equal(net, entries, counters=False)
    assert all(int(value) == 0 for name, value in net.state_dict().items() if name.endswith(COUNTER))


def test_a_common_module_prefix_is_stripped() -> None:
    net, entries = network(), state()
    load_by_order(net, {f"module.{name}": value for name, value in reversed(entries.items())})
    assert_equal(net, entries)


def test_the_model_keeps_its_dtype() -> None:
    net, entries = network().double(), state()
    load_by_order(net, {name: value.half() for name, value in entries.items()})
    assert next(net.parameters()).dtype == torch.float64
    torch.testing.assert_close(net.state_dict()["fc.weight"], entries["fc.weight"].double())


def without(entries: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: value for name, value in entries.items() if name not in names}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            lambda s: s | {"fc.weight": torch.zeros(7, 64)},
            r"^state dict entry 'fc.weight': expected shape \(3, 64\), got \(7, 64\) from 'fc.weight'; build",
        ),
        (
            lambda s: renamed(s | {"fc.weight": torch.zeros(7, 64)}),
            r"^state dict entry 'fc.weight': expected shape \(3, 64\), got \(7, 64\) from 'layer\d+.weight';",
        ),
        (
            lambda s: without(s, "fc.bias"),
            r"^state dict entry 'fc.bias': expected shape \(3,\), got nothing \(\d+ entries expected, \d+",
        ),
        (
            lambda s: s | {"extra.weight": torch.zeros(2)},
            r"^state dict entry 'extra.weight': expected shape nothing, got \(2,\) \(\d+ entries ",
        ),
        (
            lambda s: renamed(without(s, "bn1.bias") | {"bn1.bias": s["bn1.bias"]}),
            r"^state dict entry 'bn1.bias': expected a bias, got 'layer\d+.running_mean'; .*",
        ),
        (
            lambda s: {"state_dict": s},
            r"^state dict entry 'state_dict': expected a tensor, got dict; pass the inner .*",
        ),
        (lambda s: {}, r"^state dict entry 'conv1.weight': expected shape \(16, 3, 3, 3\), got nothing .*"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(bad, message: str) -> None:  # type: ignore[no-untyped-def]
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        load_by_order(net, bad(state()))
    assert "\n" not in str(caught.value)
    assert_equal(net, before)
