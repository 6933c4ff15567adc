"""The Triton kernels of moments where a test wants them: on a GPU, or in Triton's interpreter (see tests/conftest.py)."""

import importlib.util
from types import ModuleType

import pytest
import torch

from gvbsm.method import measuring

if importlib.util.find_spec("triton"):
    import triton
    import triton.language as tl

    @triton.jit
    def _count_up_to_two(out):
        """A loop whose end the program computes, as those of our kernels."""
        total = tl.program_id(0)
        for _ in range(0, tl.program_id(0) + 2):
            total += 1
        tl.store(out, total)


@pytest.fixture(scope="session")
def triton_fault() -> str:
    """Why no kernel of ours can run here, whatever is in it; empty if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (it comes with torch's builds for CUDA, on Linux)"
    out = torch.zeros(1, dtype=torch.int32, device="cuda" if torch.cuda.is_available() else "cpu")
    try:
        _count_up_to_two[(1,)](out)
    except Exception as error:  # Triton 3.6 with NumPy 2.4 raises InterpreterError
        return f"Triton {triton.__version__} cannot run a loop here: {error}"
    assert int(out) == 2
    return ""


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch, triton_fault: str) -> ModuleType:
    """`gvbsm.method.kernels`, by which moments are measured on every device during a test."""
    if triton_fault:
        pytest.skip(triton_fault)
    from gvbsm.method import kernels

    monkeypatch.setattr(measuring, "kernels_for", lambda device: kernels)
    return kernels
