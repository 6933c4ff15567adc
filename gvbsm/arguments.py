"""The arguments of `gvbsm`: a command for every stage, and those that look after them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NoReturn

from gvbsm import __version__
from gvbsm.errors import UserError
from gvbsm.locks import CHECKPOINTS
from gvbsm.planfiles import STORE

_STAGES = {
    "prepare": "pack a data set into one file",
    "squeeze": "train one teacher",
    "statistics": "measure a training set inside one teacher",
    "select": "choose real images that a shard starts from",
    "recover": "optimise a shard of synthetic images",
    "adopt": "take distilled images by others",
    "relabel": "store the teachers' soft labels of a range of epochs",
    "convert": "take their published soft labels of a range of epochs",
    "evaluate": "train and test one student on one set of images",
    "student": "train one student and keep its weights",
    "features": "look at distilled and real images through one network",
    "publish": "gather a run into acc.json, table.csv, classes.csv and images.png",
    "draw": "draw one picture of a run as PNG and SVG",
}
SHARED = ("squeeze", "evaluate", "student")  # by several processes, if asked to


class _Parser(argparse.ArgumentParser):
    """Mistakes are one line."""

    def error(self, message: str) -> NoReturn:
        where = self.prog.removeprefix("gvbsm").strip()
        raise UserError(f"{where}: {message}; see {self.prog} --help" if where else f"{message}; see gvbsm --help")


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    whole = _Parser(prog="gvbsm", description="Dataset condensation by G-VBSM; usually run by snakemake.")
    whole.add_argument("--version", action="version", version=f"gvbsm {__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for stage, about in _STAGES.items():
        example = (
            f"Example: gvbsm {stage} --spec results/.plan/<key>.json --out <file>; `snakemake -n <target>` writes the plans."
        )
        command = commands.add_parser(stage, help=about, description=f"{about[0].upper()}{about[1:]}. {example}")
        command.add_argument("--spec", help="required: plan file or JSON text")
        command.add_argument("--out", type=Path, help="required: artifact to write")
        command.add_argument("--store", type=Path, default=STORE, help="where inputs are (default: %(default)s)")
        command.add_argument(
            "--device",
            default=os.environ.get("GVBSM_DEVICE", "auto"),
            help="auto, cpu, cuda[:n] or mps (default: GVBSM_DEVICE, or auto)",
        )
        root = Path(os.environ.get("GVBSM_DATA_ROOT", "data"))
        command.add_argument(
            "--data-root", type=Path, default=root, help="folder of data sets (default: GVBSM_DATA_ROOT, or data)"
        )
        if stage in SHARED:
            command.add_argument(
                "--processes", type=_count, default=1, metavar="N", help="that train together, each on a GPU (default: 1)"
            )
        command.add_argument(
            "--workers",
            type=int,
            default=os.environ.get("GVBSM_WORKERS", _usable_cores()),
            help="processes that decode images which stay in files (default: GVBSM_WORKERS, or the usable cores, at most 16)",
        )
        command.add_argument(
            "--checkpoints", type=Path, default=CHECKPOINTS, help="folder of checkpoints (default: %(default)s)"
        )
        command.add_argument(
            "--checkpoint-seconds", type=float, default=300.0, help="time between checkpoints (default: %(default)s)"
        )
    explain = commands.add_parser("explain", help="say which artifacts of a target are present, missing or stale, and why")
    explain.add_argument("target", help="results/<dataset>/ipc<N>[-<recipe>]/acc.json")
    about = "say what a target will take: jobs, bytes, and hours at the rates of what has been run here"
    estimate = commands.add_parser("estimate", help=about, description=f"{about[0].upper()}{about[1:]}.")
    estimate.add_argument("target", help="results/<dataset>/ipc<N>[-<recipe>]/acc.json")
    about = "say how far runs are: jobs made, running and to do, and what every running job says of itself"
    status = commands.add_parser("status", help=about, description=f"{about[0].upper()}{about[1:]}.")
    which = "results/<dataset>/ipc<N>[-<recipe>]/acc.json (default: config.yaml's, and all that have been planned)"
    status.add_argument("targets", nargs="*", metavar="TARGET", help=which)
    about = "say it again every so many seconds (default: 2) until all is made"
    status.add_argument("--watch", type=_seconds, nargs="?", const=2.0, metavar="SECONDS", help=about)
    about = "put published runs side by side: accuracies, cost, and the settings that differ"
    compare = commands.add_parser("compare", help=about, description=f"{about[0].upper()}{about[1:]}.")
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="results/<dataset>/<run>, or its acc.json")
    compare.add_argument("--csv", type=Path, metavar="FILE", help="write the table there too")
    about = "draw accuracy against images per class and label bytes there (.png or .svg); may be given twice"
    compare.add_argument("--picture", type=Path, metavar="FILE", action="append", help=about)
    about = "write a published run as one HTML page: accuracies, pictures, settings with their sources, cost, provenance"
    report = commands.add_parser("report", help=about, description=f"{about[0].upper()}{about[1:]}.")
    report.add_argument("run", type=Path, metavar="RUN", help="results/<dataset>/<run>, or its acc.json")
    report.add_argument("--out", type=Path, metavar="FILE", help="where to (default: report.html beside acc.json)")
    about = "write a published run to a folder for others: lossless images, soft labels, class names, a card"
    export = commands.add_parser("export", help=about, description=f"{about[0].upper()}{about[1:]}.")
    export.add_argument("run", type=Path, metavar="RUN", help="results/<dataset>/<run>, or its acc.json")
    export.add_argument("--to", required=True, choices=("imagefolder", "webdataset", "huggingface"), help="who is to read it")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder that is not there yet, or is empty")
    about = "terms of the source, for the card (default: what is known of it, which may be nothing)"
    export.add_argument("--licence", metavar="TEXT", help=about)
    about = "convert published soft labels (SRe2L, G-VBSM, EDC) and their images to files of ours, without a row"
    fkd = commands.add_parser("import-fkd", help=about, description=f"{about[0].upper()}{about[1:]}.")
    fkd.add_argument("labels", type=Path, metavar="DIR", help="folder of epoch_<k>/batch_<i>.tar; no code in them is executed")
    fkd.add_argument("--images", type=Path, required=True, help="folder or archive of the images that were labelled, by class")
    fkd.add_argument("--out", type=Path, required=True, help="folder for images.safetensors and labels-<epoch>.safetensors")
    fkd.add_argument("--seed", type=_count, default=42, help="of the sampler when they were made (default: %(default)s)")
    lease = commands.add_parser("lease", help="run a command on GPUs of its own", usage="%(prog)s -n N -- COMMAND")
    lease.add_argument("-n", dest="count", type=_count, required=True, help="how many; 0 hides all")
    lease.add_argument("run", nargs="+", metavar="COMMAND", help="what to run, after --")
    about = "check every artifact and receipt of the store, and say how to rebuild what is damaged"
    verify = commands.add_parser("verify", help=about, description=f"{about[0].upper()}{about[1:]}. Exit status 1 if any is.")
    where = "the store, a stage's folder in it, an artifact or its receipt (default: %(default)s)"
    verify.add_argument("path", type=Path, nargs="?", default=STORE, help=where)
    about = "list what neither config.yaml's targets nor a published acc.json or picture need, or delete it"
    gc = commands.add_parser("gc", help=about, description=f"{about[0].upper()}{about[1:]}. What running jobs use is left.")
    gc.add_argument("--delete", action="store_true", help="delete what is listed")
    return whole


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"expected at least 0, got {count}")
    return count


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected seconds, got {text!r}; put targets before it") from None
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"expected 0.1 to 86400 seconds, got {text}")
    return seconds


def _usable_cores() -> int:
    """Cores this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, 16)
