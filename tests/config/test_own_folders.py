"""Files in the place of folders that runs write to, and Ctrl-C: one line, and no traceback."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gvbsm import cli
from gvbsm.errors import UserError
from gvbsm.store.code import PACKAGE
from gvbsm.store.files import mapped_tensor, nameless_tensor, write_text
from gvbsm.store.plans import files_in
from gvbsm.store.working_folder import OWN, check_folders
from snakemake_logger_plugin_gvbsm.lines import file_error_line


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def put_file(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return f"{path}: expected a folder, got a file; move it away"


@pytest.mark.parametrize("name", ["results", *OWN])
def test_a_command_in_a_working_folder_where_a_folder_is_a_file(name, capsys):
    line = put_file(Path(name))
    for command in ("status", "gc", "explain results/digits/ipc10", "estimate results/digits/ipc10"):
        assert cli.main(command.split()) == 2
        assert capsys.readouterr().err == f"gvbsm: {line}\n"


@pytest.mark.parametrize("name", ["a", "a/b", "a/b/c"])
def test_writing_below_a_file_names_the_file(name):
    import torch

    line, folder = put_file(Path(name)), Path("a/b/c")
    for act in (
        lambda: write_text(folder / "x.json", ""),
        lambda: mapped_tensor(folder / "x.raw", (2,), torch.int32),
        lambda: nameless_tensor(folder, (2,), torch.int32),
        lambda: check_folders([folder]),
    ):
        with pytest.raises(UserError) as error:
            act()
        assert str(error.value) == line


def test_listing_a_file_names_it():
    line = put_file(Path("a"))
    with pytest.raises(UserError) as error:
        files_in(Path("a/b"))
    assert str(error.value) == line and files_in(Path("none")) == []


def test_a_folder_that_is_read_only_is_refused_before_a_run_alone(monkeypatch):
    Path("results").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != Path("results"))  # root may write everywhere
    check_folders([Path("results/store")])
    with pytest.raises(
        UserError, match=r"^results: expected a folder to write in, got one that is read-only; make it writable$"
    ):
        check_folders([Path(".snakemake"), Path("results/store")], to_write=True)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "load_configfile\nFileNotFoundError: [Errno 2] No such file: 'x y.yaml'",
            "--configfile: .* got x y.yaml: No such file;",
        ),
        ("NotADirectoryError: [Errno 20] Not a directory: 'a/b.log'\n", "gvbsm: a/b.log: cannot .*: Not a directory; "),
        ("OSError: [Errno 28] No space left on device", "gvbsm: a file: cannot .*: No space left on device; "),
        ("KeyError: 'x'", None),
    ],
)
def test_a_traceback_of_snakemakes_about_a_file_becomes_one_line(text, line):
    whole = f"Traceback (most recent call last):\n\n  File ...\n\n{text}"
    shown = file_error_line(whole)
    assert shown is None if line is None else re.search(line, shown) and "\n" not in shown
    assert file_error_line(text) is None


INTERRUPTED = """
import builtins, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with it ignored
real = builtins.__import__
def interrupting(name, *arguments, **named):
    if name == "gvbsm.pipeline.registry":
        signal.raise_signal(signal.SIGINT)
    return real(name, *arguments, **named)
builtins.__import__ = interrupting
from gvbsm.cli import main
status = main(["status"])
if len(sys.argv) > 1:
    signal.raise_signal(signal.SIGINT)
sys.exit(status)
"""


@pytest.mark.parametrize("twice", [False, True])
def test_ctrl_c_during_imports_and_again_at_the_end(twice):
    command = [sys.executable, "-c", INTERRUPTED, *["twice"] * twice]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)}, capture_output=True, text=True)
    assert done.returncode == (-2 if twice else 130)
    assert done.stderr == "gvbsm: interrupted; run the same command to begin anew\n"


@pytest.mark.parametrize("content", [None, b"no archive"])
def test_hold_out_without_the_copies_is_one_line(content):
    if content:
        Path("data").mkdir()
        Path("data/cifar10-jpeg.tar.xz").write_bytes(content)
    script = PACKAGE.parent / "benchmarks" / "studies" / "hold_out.py"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "data/cifar10-jpeg.tar.xz" in done.stderr
