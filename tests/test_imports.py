"""Imports go down only, from room to room (the order is `FLOORS`), and planning needs neither torch nor snakemake."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from gvbsm.store.code import PACKAGE

# A room may import from rooms on lower floors, and from itself; the rooms of one floor do not know each other.
FLOORS = (
    {"cli"},
    {"commands", "report", "share", "stages"},
    {"training"},
    {"pipeline"},
    {"pictures"},
    {"data", "runtime"},
    {"config"},
    {"store"},
    {"errors", "format", "method", "backbones"},
)
# These rooms import no other room: they compute on what they are given.
ALONE = {"method", "backbones", "errors", "format"}
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
WORKFLOW = {"pipeline", "config", "store", "errors"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Full names below gvbsm of what a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "gvbsm" else {node.module}
    return {name for name in names if name and name.startswith("gvbsm.")} - {"gvbsm.__version__"}


def room_of(name: str) -> str:
    return name.split(".")[1]


def test_every_room_has_a_floor():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} - {"__init__", "__main__"}
    assert rooms == set(FLOOR)
    assert len(list(PACKAGE.glob("*.py"))) <= 6


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    for name in imported(path):
        there = room_of(name)
        assert there == room or (room not in ALONE and FLOOR[there] > FLOOR[room]), f"{path}: imports {name}"


def test_no_stage_imports_another():
    for path in (PACKAGE / "stages").glob("*.py"):
        assert not any(name.startswith("gvbsm.stages") for name in imported(path)), path


def test_method_imports_torch_and_nothing_else():
    """Triton, which comes with torch's builds for CUDA, in modules of kernels that only these use."""
    for path in (PACKAGE / "method").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                for name in names:
                    top = (name or "").split(".")[0]
                    allowed = {"torch", *sys.stdlib_module_names} | ({"triton"} if path.stem.endswith("kernels") else set())
                    assert top in allowed or name.startswith("gvbsm.method")


def test_the_workflow_imports_only_planning():
    files = [*(PACKAGE.parent / "workflow").rglob("*.smk"), PACKAGE.parent / "workflow" / "Snakefile"]
    lines = [line for file in files for line in file.read_text().splitlines()]
    used = {line.split()[1] for line in lines if line.startswith(("from gvbsm.", "import gvbsm."))}
    assert used and {room_of(name) for name in used} <= WORKFLOW


def test_planning_imports_neither_torch_nor_snakemake():
    program = (
        "import sys; from gvbsm.pipeline.graph import plan; from gvbsm.pipeline import registry, specs;"
        "from gvbsm.commands import estimate, explain, gc, status, verify; from gvbsm import cli; cli.parser();"
        "plan('digits', 10); status.Overview([]).look(); estimate.estimate('results/digits/ipc10');"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'snakemake', 'pandas', 'numpy'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "[]"
