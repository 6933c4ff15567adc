"""The commands for users: what they take, and what they call. A new one is an entry in `GROUPS` and a function."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gvbsm.cli.arguments import Command, argument, count, seconds
from gvbsm.errors import UserError
from gvbsm.share.forms import FORMS
from gvbsm.store.plans import STORE

_RUN = "results/<dataset>/<run>, or a file of it such as acc.json"


def _row(options: argparse.Namespace) -> None:
    from gvbsm.commands.row import row

    sys.stdout.write(row(options.target))


def _explain(options: argparse.Namespace) -> None:
    from gvbsm.commands.explain import explain

    sys.stdout.write(explain(options.target))


def _estimate(options: argparse.Namespace) -> None:
    from gvbsm.commands.estimate import estimate

    sys.stdout.write(estimate(options.target))


def _status(options: argparse.Namespace) -> None:
    from gvbsm.commands.status import status, watch

    if options.watch is None:
        sys.stdout.write(status(options.targets))
    else:
        watch(options.targets, options.watch)


def _compare(options: argparse.Namespace) -> None:
    from gvbsm.commands.compare import compare

    sys.stdout.write(compare(options.runs, options.csv, options.picture, options.all))


def _report(options: argparse.Namespace) -> None:
    from gvbsm.report.page import report

    sys.stdout.write(report(options.run, options.out))


def _export(options: argparse.Namespace) -> None:
    from gvbsm.share.export import export

    sys.stdout.write(export(options.run, options.to, options.out, options.licence))


def _import_fkd(options: argparse.Namespace) -> None:
    from gvbsm.share.import_fkd import import_fkd

    sys.stdout.write(import_fkd(options.labels, options.images, options.out, options.seed))


def _lease(options: argparse.Namespace) -> None:
    from gvbsm.runtime.lease import lease

    lease(options.count, options.run)


def _verify(options: argparse.Namespace) -> int:
    from gvbsm.commands.verify import verify

    text, damaged = verify(options.path)
    sys.stdout.write(text)
    return 1 if damaged else 0


def _gc(options: argparse.Namespace) -> None:
    from gvbsm.commands.gc import gc

    for line in gc(options.delete, options.unfinished):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()  # a list in a pipe or log is whole before anything is deleted


def _settings(options: argparse.Namespace) -> None:
    import shutil

    from gvbsm.commands import settings

    if options.section and (options.json_schema or options.refresh):
        raise UserError("settings: expected SECTION alone, got an option that covers all sections too; remove one of them")
    if options.json_schema:
        text = settings.schema_text(options.json_schema)
    elif options.refresh:
        text = settings.refresh(options.refresh)
    else:
        text = settings.settings(options.section, shutil.get_terminal_size((160, 24)).columns)
    sys.stdout.write(text)


def _init(options: argparse.Namespace) -> None:
    from gvbsm.commands.init import init

    sys.stdout.write(init(options.folder))


def _networks(options: argparse.Namespace) -> None:
    from gvbsm.commands.listing import networks

    sys.stdout.write(networks())


def _rows(options: argparse.Namespace) -> None:
    from gvbsm.commands.listing import rows

    sys.stdout.write(rows(options.command))


GROUPS: dict[str, tuple[Command, ...]] = {
    "runs": (
        Command(
            "row",
            "print the settings of a target, each with the file and line that give it; any other setting is off",
            _row,
            (argument("target", help=_RUN),),
            in_folder=True,
        ),
        Command(
            "explain",
            "list the artifacts of a target: present, missing or stale, and why",
            _explain,
            (argument("target", help=_RUN),),
            in_folder=True,
        ),
        Command(
            "estimate",
            "estimate the cost of a target: jobs, bytes, and hours at the rates of earlier jobs here or of recorded ones",
            _estimate,
            (argument("target", help=_RUN),),
            in_folder=True,
        ),
        Command(
            "status",
            "show the progress of runs: jobs made, running and to do, and the progress of every running job",
            _status,
            (
                argument(
                    "targets",
                    nargs="*",
                    metavar="TARGET",
                    help=f"{_RUN} (default: those of config.yaml, and all that have been planned)",
                ),
                argument(
                    "--watch",
                    type=seconds,
                    nargs="?",
                    const=2.0,
                    metavar="SECONDS",
                    help="show it again every SECONDS (default: 2) until all jobs are made",
                ),
            ),
            in_folder=True,
        ),
        Command(
            "compare",
            "put published runs side by side: accuracies, cost, and the settings that differ",
            _compare,
            (
                argument("runs", type=Path, nargs="+", metavar="RUN", help=_RUN),
                argument("--csv", type=Path, metavar="FILE", help="also write the table to FILE"),
                argument(
                    "--picture",
                    type=Path,
                    metavar="FILE",
                    action="append",
                    help="draw accuracy against images per class and label bytes (.png, .svg or .pdf); may be given twice",
                ),
                argument(
                    "--all",
                    action="store_true",
                    help="list every setting that differs (default: at most 15 lines of those that matter)",
                ),
            ),
        ),
        Command(
            "report",
            "write a published run as one HTML page: accuracies, pictures, settings with their sources, cost, provenance",
            _report,
            (
                argument("run", type=Path, metavar="RUN", help=_RUN),
                argument("--out", type=Path, metavar="FILE", help="page to write (default: report.html beside acc.json)"),
            ),
        ),
        Command(
            "export",
            "write a published run to a folder for others: lossless images, soft labels, class names, a card",
            _export,
            (
                argument("run", type=Path, metavar="RUN", help=_RUN),
                argument("--to", required=True, choices=FORMS, help="format to write"),
                argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder"),
                argument(
                    "--licence",
                    metavar="TEXT",
                    help="terms of the source, for the card (default: those that are known, if any)",
                ),
            ),
        ),
    ),
    "the store": (
        Command(
            "verify",
            "check every artifact and receipt of the store, and name the commands that rebuild damaged ones",
            _verify,
            (
                argument(
                    "path",
                    type=Path,
                    nargs="?",
                    default=STORE,
                    help="the store, a stage's folder in it, an artifact or its receipt (default: %(default)s)",
                ),
            ),
            more=" Exit status 1 if there is any damage.",
        ),
        Command(
            "gc",
            "list files that no target in config.yaml, no published or unfinished run and no picture needs, or delete them",
            _gc,
            (
                argument("--delete", action="store_true", help="list them, then delete them"),
                argument(
                    "--unfinished",
                    action="store_true",
                    help="also those of runs that are planned and not finished: interrupted or failed ones, or planned by "
                    "snakemake -n alone",
                ),
            ),
            more=" Files that running jobs use stay.",
            in_folder=True,
        ),
    ),
    "what files in config/ may say": (
        Command(
            "init",
            "write a working folder: config.yaml, profiles, and a Snakefile that runs the installed workflow",
            _init,
            (argument("folder", type=Path, nargs="?", default=Path(), metavar="FOLDER", help="where (default: here)"),),
        ),
        Command(
            "settings",
            "print every setting: name, type, bounds, unit, meaning",
            _settings,
            (
                argument(
                    "section",
                    nargs="?",
                    metavar="SECTION",
                    help="part of a row (row, recover, recover.ema, ...) or config (default: all)",
                ),
            ),
            (
                argument(
                    "--json-schema",
                    choices=("row", "config", "study"),
                    help="print a JSON schema for editors instead: of data sets and recipes, of config.yaml, or of study.yaml",
                ),
                argument(
                    "--refresh",
                    type=Path,
                    metavar="FOLDER",
                    help="write the tables in FOLDER/*.md and FOLDER/settings/*.md, and FOLDER/schema/, anew instead",
                ),
            ),
        ),
        Command("networks", "list the networks that a row may name, with their options", _networks),
        Command("datasets", "list the data sets in config/datasets/", _rows),
        Command("recipes", "list the recipes in config/recipes/", _rows),
    ),
    "others": (
        Command(
            "import-fkd",
            "convert published soft labels (SRe2L, G-VBSM, EDC) and their images to gvbsm's files, without a row",
            _import_fkd,
            (
                argument(
                    "labels", type=Path, metavar="DIR", help="folder of epoch_<k>/batch_<i>.tar; no code in them is executed"
                ),
                argument("--images", type=Path, required=True, help="folder or archive of the labelled images, by class"),
                argument(
                    "--out", type=Path, required=True, help="folder for images.safetensors and labels-<epoch>.safetensors"
                ),
                argument("--seed", type=count, default=42, help="seed with which images were sampled (default: %(default)s)"),
            ),
        ),
        Command(
            "lease",
            "run a command on GPUs of its own",
            _lease,
            (
                argument("-n", dest="count", type=count, required=True, help="number of GPUs; 0 hides all"),
                argument("run", nargs="+", metavar="COMMAND", help="command to run, after --"),
            ),
            usage="%(prog)s -n N -- COMMAND",
        ),
    ),
}
