"""The Triton kernels of moments: values in the interpreter, and that they build for GPUs that are not here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.one_pass import one_pass
from gvbsm.method import measuring
from gvbsm.method.matching import Matching, StatisticsMatcher
from gvbsm.method.measuring import Measuring, Segment

BUILD = """
import sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gvbsm.method import kernels, norm_kernels


def build(capability, kernel, types, **constants):
    types, names = iter(types), kernel.arg_names
    signature = {name: "constexpr" if name in constants else next(types) for name in names}
    source = ASTSource(fn=kernel, signature=signature, constexprs={(names.index(n),): c for n, c in constants.items()})
    assert compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


for capability in map(int, sys.argv[1:]):
    for value, kinds in (("*fp32", kernels.CHANNELS), ("*bf16", kernels.POSITIONS), ("*bf16", kernels.NEIGHBOURS)):
        tile = {"KINDS": kinds, "TILE_P": 16, "TILE_C": 64}
        at_once = {"AT_ONCE": 1 if kinds == kernels.NEIGHBOURS else 4}
        build(capability, kernels._sums_kernel, [value, "*fp32"] + ["i32"] * 11, **tile, **at_once)
        build(capability, kernels._gradient_kernel, [value, value, "*fp32"] + ["i32"] * 13, **tile)
    for value in ("*fp32", "*bf16"):
        tile = {"SCALES": True, "SUMS": True, "TILE_P": 16, "TILE_C": 64, "AT_ONCE": 4}
        types = [value, value] + ["*fp32"] * 5 + ["fp32"] + ["i32"] * 13
        build(capability, norm_kernels._norm_kernel, types, SHIFTS=True, **tile)
        types = [value] * 3 + ["*fp32"] * 3 + ["fp32"] + ["i32"] * 17
        build(capability, norm_kernels._norm_gradient_kernel, types, **tile)
    build(capability, kernels._add_up_kernel, ["*fp32", "*i64", "*fp32"], TILE_M=128, TILE_K=8)
    types = ["*fp32", "*i32", "*i32", "*fp32", "*fp32", "i32", "i32"]
    build(capability, kernels._linear_kernel, types, TILE_N=1, TILE_M=256)
"""


# What Triton builds a kernel anew for: constants, types, and of pointers and numbers what `do_not_specialize` does not name.
BUILT = """
import torch
from triton.runtime.jit import JITFunction
from benchmarks.one_pass import one_pass
from benchmarks.recover import SETTINGS, Problem
from gvbsm.method import kernels, measuring


def kind(parameter, value):
    if parameter.is_constexpr:
        return value
    if isinstance(value, torch.Tensor):
        return value.dtype, value.data_ptr() % 16
    return type(value) if parameter.do_not_specialize else (value == 1, value % 16, value < 2**31)


def run(self, *values, **_):
    built.add((self.fn.__name__, *map(kind, self.params, values)))


JITFunction.run = run
measuring.kernels_for = lambda device: kernels
for name in ("shufflenet_v2", "mobilenet_v2"):
    found = []
    for batch in (2, 10):
        built = set()
        problem = Problem(SETTINGS["cifar"], name, batch, torch.device("cpu"), torch.float32)
        with problem.matcher(compiled=False) as matcher:
            problem.gradient(lambda x: one_pass(matcher, x.contiguous(memory_format=torch.channels_last))[1])
        found.append(built)
    assert found[0] == found[1], found[0] ^ found[1]
    print(name, len(built))
"""


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def measured(x_BCHW: torch.Tensor, patch: int, kinds=("channel", "patch")) -> tuple[torch.Tensor, torch.Tensor]:
    """Moments of a map that two layers read, and the gradient of a weighted sum of them."""
    patches = -(-x_BCHW.shape[2] // patch) * -(-x_BCHW.shape[3] // patch)
    sizes = {"channel": x_BCHW.shape[1], "patch": patches}
    segments = [Segment("a", kind, sizes[kind]) for kind in kinds] + [Segment("b", "channel", sizes["channel"])]
    x_BCHW = x_BCHW.clone(memory_format=torch.preserve_format).requires_grad_()
    values = Measuring(segments, patch)({"a": x_BCHW, "b": x_BCHW}, lambda layer: True)
    weights = torch.randn(len(values), generator=torch.Generator().manual_seed(1)).to(x_BCHW.device)
    (values * weights).sum().backward()
    return values.detach(), x_BCHW.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("shape", "patch", "programs"),
    [
        pytest.param((3, 5, 8, 8), 4, 1, id="patches divide the map, all images by one program"),
        pytest.param((3, 5, 8, 8), 4, 2048, id="one image by each program"),
        pytest.param((2, 3, 7, 9), 4, 2048, id="patches do not divide the map"),
        pytest.param((1, 66, 2, 3), 4, 1, id="more channels than a program holds, a map smaller than a patch"),
        pytest.param((5, 2, 1, 1), 1, 1, id="one pixel"),
    ],
)
def test_moments_and_gradients_are_those_of_the_plain_maths(kernels, monkeypatch, programs, shape, patch, layout, dtype):
    monkeypatch.setattr(kernels, "_PROGRAMS", programs)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 0.5
    x = x.to(DEVICE, dtype).contiguous(memory_format=layout)
    got, gradient = measured(x, patch)
    assert gradient.dtype == dtype and gradient.stride() == x.stride()
    monkeypatch.setattr(measuring, "kernels_for", lambda device: None)
    expected, expected_gradient = measured(x.double(), patch)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(
        gradient.double(), expected_gradient, rtol=tolerance, atol=tolerance * float(expected_gradient.abs().max())
    )


def test_channels_alone_need_no_sums_of_positions(kernels, monkeypatch):
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    kinds, map_sums = [], kernels.map_sums
    monkeypatch.setattr(
        kernels, "map_sums", lambda maps, wanted, places: (kinds.extend(wanted), map_sums(maps, wanted, places))[1]
    )
    got, _ = measured(x, 4, kinds=("channel",))
    torch.testing.assert_close(got[:4], x.mean((0, 2, 3)))
    assert kinds == [kernels.CHANNELS]


def test_a_map_is_read_once_for_all_layers_that_share_it(kernels, monkeypatch):
    calls, map_sums = [], kernels.map_sums
    monkeypatch.setattr(
        kernels, "map_sums", lambda maps, wanted, places: (calls.extend(wanted), map_sums(maps, wanted, places))[1]
    )
    measured(torch.randn(2, 3, 5, 5, device=DEVICE), 4)
    assert calls == [kernels.NEIGHBOURS]


@pytest.mark.parametrize("kinds", [[0, 5], [2, 0]])
def test_torch_knows_the_operator_as_its_own(kernels, kinds):
    maps = [torch.randn(2, c, 3, 4, generator=torch.Generator().manual_seed(c)).to(DEVICE).requires_grad_() for c in (3, 70)]
    places_T5 = kernels.places([x.shape for x in maps], kinds, DEVICE)
    torch.library.opcheck(kernels.map_sums, (maps, kinds, places_T5), test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(kernels.map_sums, (maps, kinds, places_T5), test_utils="test_autograd_registration")


def test_moments_without_autograd_are_the_same(kernels):
    """As `statistics` measures them."""
    inputs = {name: torch.randn(3, 4, side, 5, device=DEVICE) for name, side in (("a", 8), ("b", 5))}
    measuring = Measuring([Segment("a", "channel", 4), Segment("a", "patch", 4), Segment("b", "patch", 4)], 4)
    expected = measuring(inputs, lambda layer: True)
    with torch.inference_mode():
        assert torch.equal(measuring(inputs, lambda layer: False), expected)


def test_moments_of_another_kind_are_measured_without_kernels(monkeypatch):
    """As docs/new-statistic.md adds one: the kernels' sums do not give it."""
    monkeypatch.setattr(measuring, "kernels_for", lambda device: pytest.fail("asked for kernels"))
    monkeypatch.setattr(
        measuring, "moments", lambda x, kinds, patch: {"row_mean": x.mean((0, 1, 3)), "row_var": x.var((0, 1, 3))}
    )
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    values = Measuring([Segment("a", "row", 5)], 4)({"a": x}, lambda layer: True)
    torch.testing.assert_close(values[:5], x.mean((0, 1, 3)))


def test_a_matrix_and_its_transpose_agree_with_torch(kernels):
    """On whole numbers, of which sums are exact in any order."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.randint(-4, 5, (300, 40), generator=generator).float() * (torch.rand(300, 40, generator=generator) < 0.2)
    dense[7] = 0  # an empty row
    forms = [(form.nonzero().unbind(1), form[form != 0], len(form)) for form in (dense, dense.T)]
    matrices = [kernels.Matrix.of(*places, weights, rows, DEVICE) for places, weights, rows in forms]
    values = torch.randint(-4, 5, (40,), generator=generator).float().to(DEVICE).requires_grad_()
    out, dense = kernels.linear(values, *matrices), dense.to(DEVICE)
    assert torch.equal(out, dense @ values)
    out.square().sum().backward()
    assert torch.equal(values.grad, 2 * dense.T @ (dense @ values.detach()))


def test_a_teacher_is_matched_as_without_kernels(kernels, monkeypatch):
    """A whole pass: averages, drops, and the gradient to the images."""
    torch.manual_seed(0)
    layers = [
        torch.nn.Conv2d(1, 3, 3, padding=1),
        torch.nn.BatchNorm2d(3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(3, 2, 3, padding=1),
    ]
    model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(2 * 49, 3)).eval().requires_grad_(False).to(DEVICE)
    kinds = {"channel": {"0": 1, "3": 3}, "patch": {"0": 4, "3": 4}}
    targets = {
        name: {f"{kind}_{moment}": torch.rand(sizes[name]) for kind, sizes in kinds.items() for moment in ("mean", "var")}
        for name in ("0", "3")
    }
    results = []
    for used in (True, False):
        if not used:
            monkeypatch.setattr(measuring, "kernels_for", lambda device: None)
        with StatisticsMatcher(model, targets, Matching(4, 0.8, 10.0, "first", "update")) as matcher:
            for number, dropped in enumerate([(), ("3",), ()]):
                x = torch.randn(4, 1, 7, 7, generator=torch.Generator().manual_seed(number)).to(DEVICE).requires_grad_()
                logits, loss = one_pass(matcher, x, dropped)
                (logits.sum() + loss).backward()
            results.append((loss.detach(), x.grad, matcher.average_N))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_without_a_c_compiler_plain_operations_sum(monkeypatch):
    """Triton builds its driver at the first launch."""
    kernels = pytest.importorskip("gvbsm.method.kernels", reason="Triton is not installed", exc_type=ImportError)

    class Driver:
        @property
        def active(self):
            raise RuntimeError("Failed to find C compiler\nat great length")

    monkeypatch.setattr(kernels.triton.runtime, "driver", Driver())
    kernels.can_be_launched.cache_clear()
    with pytest.warns(UserWarning, match=r"^without Triton's kernels, so slower: Failed to find C compiler$"):
        assert measuring.kernels_for(torch.device("cuda")) is None
    assert measuring.kernels_for(torch.device("cuda")) is None  # and says it once
    kernels.can_be_launched.cache_clear()


def script_run(program: str, folder: Path, *arguments: str) -> str:
    """What a program prints that sees kernels as they are on a GPU."""
    (folder / "script.py").write_text(program)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, folder / "script.py", *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("capabilities", [["90"], pytest.param(["80", "100"], marks=pytest.mark.nightly("compile"))])
def test_kernels_build_for_gpus_that_are_not_here(capabilities, tmp_path):
    """Of compute capability 8.0 (A100), 9.0 (H100) and 10.0 (B200)."""
    pytest.importorskip("triton.backends.nvidia.compiler", reason="this Triton has no compiler for NVIDIA's GPUs")
    script_run(BUILD, tmp_path, *capabilities)


@pytest.mark.nightly("compile")
def test_kernels_build_once_for_batches_of_every_size(tmp_path):
    """Then `benchmarks/gpu.sh build` may build them with small ones."""
    pytest.importorskip("triton", reason="Triton is not installed")
    counts = script_run(BUILT, tmp_path).split()[1::2]
    assert len(counts) == 2 and min(map(int, counts)) > 10
