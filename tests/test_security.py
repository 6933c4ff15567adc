"""Nothing unpickles, nothing evaluates text, nothing reaches a shell unquoted: read from the sources themselves."""

import ast
import re
from collections.abc import Iterator

import pytest
import yaml

from gvbsm.config import yaml_files
from gvbsm.store.code import PACKAGE

ROOT = PACKAGE.parent
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
UNPICKLING = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "jsonpickle", "copyreg"}
EVALUATING = {"eval", "exec", "compile", "__import__", "breakpoint"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"}
# Functions that unpickle whatever their arguments, and functions that run or unpack what others wrote.
FORBIDDEN = {"torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.jit.load", "torch.package", "torch.export.load"}
FORBIDDEN |= {"pd.read_pickle", "pandas.read_pickle", "yaml.unsafe_load", "yaml.full_load"}
FORBIDDEN |= {"runpy.run_path", "tarfile.extractall", "shutil.unpack_archive"}


def dotted(node: ast.expr) -> str:
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def breaches(source: str) -> Iterator[str]:
    """Every forbidden import and call in a source text, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f"{node.lineno}: {alias.name}" for alias in node.names if alias.name.split(".")[0] in UNPICKLING)
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if (node.module or "").split(".")[0] in UNPICKLING and names != {"UnpicklingError"}:  # to catch it
                yield f"{node.lineno}: {node.module}"
            if node.module in ("torch", "numpy", "os", "subprocess") and names & {"load", "system", "popen"}:
                yield f"{node.lineno}: {node.module}"
        elif isinstance(node, ast.Call):
            yield from (f"{node.lineno}: {what}" for what in breaches_of_call(node))


def breaches_of_call(node: ast.Call) -> Iterator[str]:
    name = dotted(node.func)
    arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name in EVALUATING | SHELLS | FORBIDDEN or name.startswith("os.exec") or name.endswith(".extractall"):
        yield name
    if name == "torch.load" and arguments.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if arguments.get("allow_pickle", "True" if name in ("np.load", "numpy.load") else "False") != "False":
        yield "allow_pickle"
    if name == "yaml.load" and arguments.get("Loader") not in ("_Loader", "yaml.SafeLoader", "yaml.CSafeLoader"):
        yield "yaml.load without a safe loader"
    if arguments.get("shell", "False") != "False":
        yield "shell=True"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_unpickles_evaluates_or_calls_a_shell(path):
    # `gvbsm lease` becomes the command that it is given, argument by argument.
    allowed = ["os.execvp"] if path.name == "lease.py" else []
    assert [breach.partition(": ")[2] for breach in breaches(path.read_text())] == allowed


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import joblib.memory",
        "def f():\n    from pickle import loads",
        "from torch import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.hub.load('x/y', 'z')",
        "np.load(path)",
        "x.read(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text, yaml.SafeLoader)",
        "eval(text)",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=flag)",
        "os.system(command)",
        "archive.extractall(path)",
    ],
)
def test_every_breach_is_seen(source):
    assert len(list(breaches(source))) == 1


def test_configuration_is_read_by_a_safe_loader():
    assert issubclass(yaml_files._Loader, yaml.SafeLoader)
    with pytest.raises(yaml.YAMLError):
        yaml.load("!!python/object/apply:os.getcwd []", Loader=yaml_files._Loader)  # noqa: S506


RULES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))
COMMON = (ROOT / "workflow" / "rules" / "common.smk").read_text()
CONSTRAINTS = dict(re.findall(r'^    (\w+)=r"(.+)",$', COMMON.partition("wildcard_constraints:")[2], re.MULTILINE))
UNSAFE = [
    "a b",
    "a'b",
    'a"b',
    "$(touch x)",
    "`x`",
    "a;b",
    "a|b",
    "a\nb",
    "a&b",
    "a>b",
    "a*b",
    "a/b",
    "../x",
    "{x}",
    "~x",
    "a\\b",
    "é",
]


@pytest.mark.parametrize("name", ["name", "key"])
def test_wildcards_of_the_store_hold_nothing_that_a_shell_reads(name):
    assert re.fullmatch(CONSTRAINTS[name], "0123456789")
    assert not [text for text in UNSAFE if re.fullmatch(CONSTRAINTS[name], text)]


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_shell_commands_quote_all_but_harmless_letters(path):
    """Only a rule whose paths have no wildcards but `name` and `key` may leave a placeholder unquoted."""
    text = path.read_text()
    is_of_store = set(re.findall(r"\{(\w+)\}", text.partition("shell:")[0])) <= {"name", "key"}
    for shell in re.findall(r'shell:\n((?:        ".*"\n)+)', text + "\n"):
        assert "params" not in shell and "input" not in re.sub(r"\{input\.\w+:q\}", "", shell)
        for placeholder in re.findall(r"(?<!\{)\{([^{}]+)\}", shell):
            assert placeholder.endswith(":q") or is_of_store, f"{path}: {placeholder} is not quoted"
    assert text.count("shell:") == (path.stem not in ("common", "container", "targets", "asked"))
    assert "run:" not in text and "script:" not in text and "eval(" not in text


def test_the_data_set_stays_in_the_results_folder():
    dataset, run = CONSTRAINTS["dataset"], CONSTRAINTS["run"]
    form = re.compile(rf"results/{dataset}/{run}/acc\.json")
    assert form.fullmatch("results/digits/ipc10/acc.json")
    for target in ("results/../x/ipc10/acc.json", "results/x/../../ipc10/acc.json", "results/.plan/ipc10/acc.json"):
        assert not form.fullmatch(target), target
    assert not form.fullmatch("results/store/ipc10/acc.json")


def test_the_repository_holds_no_pickles():
    for folder in ("gvbsm", "snakemake_logger_plugin_gvbsm", "workflow", "config", "tests", "benchmarks", "docs"):
        for path in (ROOT / folder).rglob("*"):
            if ".snakemake" in path.parts:  # Snakemake's own, where benchmarks were run
                continue
            assert path.suffix not in {".pkl", ".pickle", ".pth", ".pt", ".joblib", ".bin", ".ckpt"}, path
