"""`python -m benchmarks [NAME ...] [--device cuda] [--repeats 9] [--no-compile] [--threads 2] ...`."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch

from benchmarks import (
    against,
    ceilings,
    graph,
    labels,
    memory,
    reading,
    recover,
    shared_views,
    step,
    students,
    training,
    tuning,
    views,
)
from gvbsm.runtime.compiler import set_up_compiler
from gvbsm.runtime.devices import choose_device, device_name

BENCHMARKS = {
    "recover-cifar": lambda device, options: recover.run("cifar", device, options),
    "recover-imagenet": lambda device, options: recover.run("imagenet", device, options),
    "step": lambda device, options: step.run(device, options),
    "shared-views": lambda device, options: shared_views.run(device, options),
    "profile": lambda device, options: step.profile(device, options),
    "ceilings": lambda device, options: ceilings.run(device, options.repeats),
    "against": lambda device, options: against.run(device, options),
    "warm-start": lambda device, options: against.warm_start(device, options),
    "memory": lambda device, options: memory.run(device, options),
    "views": lambda device, options: views.run(device, options.repeats),
    "reading": lambda device, options: reading.run(device, options.repeats),
    "labels": lambda device, options: labels.run(device, options.repeats),
    "graph": lambda _device, options: graph.run(options.repeats),
    "student": lambda device, options: students.run(device, options.repeats),
    "tuning": lambda device, options: tuning.run(device, options.repeats),
    "squeeze": lambda device, options: training.run(device, options.repeats),
}


def main() -> None:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (default: all): {', '.join(BENCHMARKS)}")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each alternative (default: %(default)s)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="also torch.compile")
    parser.add_argument("--backbone", default="", help="part of a name: only those that have it, of recover")
    parser.add_argument("--setting", choices=[*recover.SETTINGS], help="of step and profile (default: all)")
    parser.add_argument("--precision", default="", help="likewise, of step and profile on a GPU")
    parser.add_argument("--batch", type=int, help="images of an iteration (of recover; default: see there)")
    parser.add_argument("--against", default="3049357", help="the commit that `against` compares with (default: %(default)s)")
    options = parser.parse_args()
    unknown = set(options.names) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"unknown benchmark {sorted(unknown)[0]!r}; choose from {', '.join(BENCHMARKS)}")
    device = choose_device(options.device, options.threads)
    set_up_compiler(Path("results/.compiled"), 64)
    print(f"{device_name(device)}, {options.threads} threads, torch {torch.__version__}, Python {platform.python_version()}")
    for name in options.names or BENCHMARKS:
        BENCHMARKS[name](device, options)


if __name__ == "__main__":
    main()
