# What rules ask the planner. A store artifact's path holds its key, the key names its plan file, and the plan says inputs.
import gc
import os
import sys
from pathlib import Path

from gvbsm.config.project import job_environment, load_config
from gvbsm.config.yaml_files import config_folder
from gvbsm.errors import UserError
from gvbsm.pipeline.registry import read_plan
from gvbsm.store.code import PACKAGE
from gvbsm.store.plans import STORE
from gvbsm.store.run import PICTURES
from gvbsm.store.spec import flat_paths

# A graph is many objects that all stay: looking through them for garbage every 700 takes a tenth of the planning.
gc.set_threshold(200_000, 50, 50)

CONFIG_FILE = str(config_folder() / "config.yaml")


# Made from gvbsm.def beside it; used with `--sdm apptainer` alone.
container: str(PACKAGE.parent / "workflow" / "envs" / "gvbsm.sif")


wildcard_constraints:
    name=r"[A-Za-z0-9_.-]+",
    key=r"[0-9a-f]{10}",
    dataset=r"(?!store/)[^/.][^/]*",
    run=r"[^/]+",
    picture="|".join(PICTURES),


def checked(function, *arguments):
    """The function's result; what the user got wrong is one line and exit status 1, where an exception is a traceback."""
    try:
        return function(*arguments)
    except UserError as error:
        sys.stderr.write(f"gvbsm: {error}\n")
        sys.stderr.flush()
        raise SystemExit(1) from None


def stored(paths):
    """Artifacts of the store. Ancient: their paths already say what is inside."""
    return [ancient(str(STORE / path)) for path in flat_paths(paths)]


SPECS = {}  # by key: what this process has planned need not be read back


def planned_spec(key):
    """What is planned for a job of the store."""
    if key not in SPECS:
        SPECS[key] = checked(read_plan, key).spec
    return SPECS[key]


def planned(name):
    """The artifacts that a job of the store reads under one name of its spec's inputs."""

    def inputs(wildcards):
        return stored(getattr(planned_spec(wildcards.key).inputs, name))

    return inputs


def planned_threads(wildcards):
    """CPU threads, which are part of the spec."""
    return planned_spec(wildcards.key).threads()


include: "targets.smk"
