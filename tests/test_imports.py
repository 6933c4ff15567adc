"""Imports go down only: stages -> {method, backbones, data, runtime} -> {artifacts, settings, keys}."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from gvbsm.store.code import PACKAGE

FOUNDATION = {"artifacts", "disk", "receipts", "settings", "stage_settings", "sources", "keys", "errors", "folders"}
PLANNING = FOUNDATION | {
    "network_names",
    "mistakes",
    "configs",
    "rows",
    "cuts",
    "stage_plans",
    "plan",
    "plan_pictures",
    "planfiles",
    "stage_specs",
    "specs",
    "explain",
    "estimate",
    "locks",
    "verify",
    "gc",
    "progressfiles",
    "adopted",
    "published",
    "status",
}
LIBRARY = {"method", "backbones", "data", "runtime"}
ALLOWED = {
    "errors": set(),
    "keys": set(),
    "disk": {"errors", "keys"},
    "receipts": {"disk", "errors", "keys"},
    "artifacts": {"disk", "receipts", "errors", "keys"},
    "sources": set(),
    "folders": {"errors"},
    "network_names": {"keys"},
    "stage_settings": {"sources"},
    "settings": {"network_names", "sources", "stage_settings"},
    "mistakes": {"errors"},
    "configs": {"keys", "mistakes", "settings"},
    "rows": {"configs", "mistakes", "network_names", "settings", "stage_settings"},
    "planfiles": FOUNDATION,
    "adopted": FOUNDATION | {"planfiles"},
    "cuts": {"stage_settings"},
    "stage_plans": FOUNDATION | {"cuts", "network_names", "planfiles"},
    "plan": {"planfiles", "rows", "stage_plans"},
    "plan_pictures": {"configs", "mistakes", "plan", "planfiles", "rows", "settings", "stage_plans"},
    "stage_specs": FOUNDATION,
    "specs": FOUNDATION | {"mistakes", "stage_specs"},
    "explain": FOUNDATION | {"configs", "plan", "planfiles"},
    "estimate": FOUNDATION | {"configs", "method", "plan", "planfiles", "wording"},
    "locks": set(),
    "verify": FOUNDATION | {"locks", "planfiles"},
    "gc": FOUNDATION | {"configs", "locks", "plan_pictures", "planfiles", "progressfiles"},
    "progressfiles": {"disk", "errors", "locks"},
    "status": FOUNDATION | {"configs", "locks", "plan", "planfiles", "progressfiles", "wording"},
    "import_fkd": FOUNDATION | {"data", "method", "runtime"},
    "wording": set(),
    "published": {"errors", "keys"},
    "origins": {"mistakes", "rows"},
    "pictures": {"pictures", "published"},
    "compare": {"disk", "errors", "mistakes", "pictures", "published", "wording"},
    "report": {"disk", "errors", "keys", "mistakes", "origins", "plan", "planfiles", "published", "report", "wording"},
    "share": FOUNDATION | {"data", "mistakes", "published", "share", "wording"},
    "export": FOUNDATION | {"data", "runtime", "share"},
    "loading": FOUNDATION | {"data", "method", "share"},
    "arguments": {"errors", "locks", "planfiles"},
    "cli": PLANNING | {"arguments", "compare", "export", "report", "runtime", "import_fkd"},
    "__main__": {"cli"},
    "method": {"method"},
    "backbones": {"backbones"},
    "data": {"data", "method"} | FOUNDATION,
    "runtime": {"runtime", "backbones", "data", "method", "progressfiles"} | FOUNDATION,
    "stages": LIBRARY | FOUNDATION | {"adopted", "pictures", "planfiles", "published"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """First names below gvbsm of what a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "gvbsm" else {node.module}
    return {name.split(".")[1] for name in names if name and name.startswith("gvbsm.")} - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room != "__init__":
        assert imported(path) <= ALLOWED[room]


def test_no_stage_imports_another():
    for path in (PACKAGE / "stages").glob("*.py"):
        assert "gvbsm.stages" not in path.read_text().replace("gvbsm/stages", "")


def test_method_imports_torch_and_nothing_else():
    for path in (PACKAGE / "method").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                for name in names:
                    top = (name or "").split(".")[0]
                    assert top in {"torch", *sys.stdlib_module_names} or name.startswith("gvbsm.method")


def test_the_workflow_imports_only_planning():
    text = "\n".join(path.read_text() for path in (PACKAGE.parent / "workflow").rglob("*.smk"))
    text += (PACKAGE.parent / "workflow" / "Snakefile").read_text()
    used = {line.split()[1].split(".")[1] for line in text.splitlines() if line.startswith(("from gvbsm.", "import gvbsm."))}
    assert used == {"adopted", "configs", "errors", "keys", "plan", "plan_pictures", "planfiles", "published", "receipts"}


def test_planning_imports_neither_torch_nor_snakemake():
    program = (
        "import sys; from gvbsm.pipeline.graph import plan; from gvbsm import specs, explain, verify, gc, status, cli;"
        "plan('digits', 10); status.Overview([]).look();"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'snakemake', 'pandas', 'numpy', 'kornia'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "[]"
