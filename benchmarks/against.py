"""The pass that recover optimises through, of this code and of an earlier commit in turn: `--against COMMIT`.

Each side is a process of its own, since two versions of a package cannot be imported together. Both do what `recover-cifar`
calls "ours", float32.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.recover import SETTINGS, Problem, chosen
from benchmarks.timing import compare, report

HERE = Path(__file__).resolve()


def run(device: torch.device, options: Namespace) -> None:
    """Compare passes on the CIFAR backbones that were asked for."""
    batch = options.batch or SETTINGS["cifar"].batch
    with _trees(options.against) as trees:
        for name in chosen(SETTINGS["cifar"], options):
            for how in ("uncompiled", "compiled") if options.compile else ("uncompiled",):
                with contextlib.ExitStack() as stack:
                    sides = {s: stack.enter_context(_side(tree, name, how, batch, device)) for s, tree in trees.items()}
                    timings = compare({s: lambda p=p: _ask(p) for s, p in sides.items()}, options.repeats, device)
                report(f"pass of recover at 32 px, {how}: {name}, batch {batch}", timings, options.against)


def warm_start(device: torch.device, options: Namespace) -> None:
    """Compare a whole process up to its first compiled pass, as a second shard's job is, its graphs in the cache."""

    def start(tree: Path, name: str) -> None:
        with _side(tree, name, "compiled", options.batch or SETTINGS["cifar"].batch, device) as process:
            _ask(process)

    with _trees(options.against) as trees:
        for name in chosen(SETTINGS["cifar"], options):
            starts = {side: lambda t=tree, n=name: start(t, n) for side, tree in trees.items()}
            report(f"warm start: {name}", compare(starts, options.repeats, device), options.against)


@contextlib.contextmanager
def _trees(commit: str) -> Iterator[dict[str, Path]]:
    """The source trees of both sides."""
    with tempfile.TemporaryDirectory() as folder:
        that = Path(folder) / "that"
        that.mkdir()
        archive = subprocess.run(["git", "archive", commit], cwd=HERE.parents[1], capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(that)], input=archive, check=True)
        yield {commit: that, "this code": HERE.parents[1]}


@contextlib.contextmanager
def _side(tree: Path, name: str, how: str, batch: int, device: torch.device) -> Iterator[subprocess.Popen[str]]:
    """A process that runs one pass for each line it is sent, with the package of a source tree."""
    # As a file and not as a module of this package: what it imports is the side's.
    command = [sys.executable, str(HERE), name, how, str(batch), str(device), str(torch.get_num_threads())]
    cache = Path(tempfile.gettempdir()) / "gvbsm-against" / str(os.getpid()) / tree.name
    environment = os.environ | {"PYTHONPATH": str(tree), "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.communicate()


def _ask(process: subprocess.Popen[str]) -> None:
    assert process.stdin and process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n", f"expected a finished pass of {process.args}, got none"


def _serve(name: str, how: str, batch: int, device: str, threads: int) -> None:
    """The process of a side, with that side's own benchmark of recover."""
    from gvbsm.runtime.devices import choose_device

    problem = Problem(SETTINGS["cifar"], name, batch, choose_device(device, threads), torch.float32)
    with problem.matcher(how == "compiled") as matcher:
        for _ in sys.stdin:
            gradient = problem.gradient(lambda x: problem.ours(matcher, "float32", x))
            gradient.sum().item()  # waits for the device
            print("done", flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
