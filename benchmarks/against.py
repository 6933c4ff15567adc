"""The pass that recover optimises through, of this code and of an earlier commit in turn: `--against COMMIT`.

Each side is a process of its own, since two versions of a package cannot be imported together. Both do what `recover-cifar`
calls "ours", float32.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tarfile
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import torch

HERE = Path(__file__).resolve()


def run(device: torch.device, options: Namespace) -> None:
    """Compare on the CIFAR backbones that were asked for."""
    from benchmarks.recover import SETTINGS, chosen
    from benchmarks.timing import compare, report

    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", options.against], cwd=HERE.parents[1], capture_output=True, check=True
        ).stdout
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        setting = SETTINGS["cifar"]
        for name in chosen(setting, options):
            for how in ("uncompiled", "compiled") if options.compile else ("uncompiled",):
                with contextlib.ExitStack() as stack:
                    sides = {
                        f"{side}, {how}": stack.enter_context(_side(tree, name, how, options.batch or setting.batch, device))
                        for side, tree in ((options.against, Path(folder)), ("this code", HERE.parents[1]))
                    }
                    timings = compare({side: lambda s=s: _ask(s) for side, s in sides.items()}, options.repeats, device)
                report(f"pass of recover at 32 px: {name}", timings, f"{options.against}, {how}")


@contextlib.contextmanager
def _side(tree: Path, name: str, how: str, batch: int, device: torch.device) -> Iterator[subprocess.Popen[str]]:
    """A process that runs one pass for each line it is sent, with the package of a source tree."""
    command = [sys.executable, str(HERE), name, how, str(batch), str(device), str(torch.get_num_threads())]
    environment = os.environ | {"PYTHONPATH": str(tree), "TORCHINDUCTOR_CACHE_DIR": str(tree / ".compiled")}
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
    from benchmarks.recover import SETTINGS, Problem
    from gvbsm.runtime.devices import choose_device

    problem = Problem(SETTINGS["cifar"], name, batch, choose_device(device, threads), torch.float32)
    with problem.matcher(how == "compiled") as matcher:
        for _ in sys.stdin:
            gradient = problem.gradient(lambda x: problem.ours(matcher, "float32", x))
            gradient.sum().item()  # waits for the device
            print("done", flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
