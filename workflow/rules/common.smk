# What rules ask the planner. A store artifact's path holds its key, the key names its plan file, and the plan says inputs.
import functools
import gc
import os
import sys
from pathlib import Path

from gvbsm.configs import config_folder, load_config
from gvbsm.errors import UserError
from gvbsm.keys import PACKAGE
from gvbsm.planfiles import STORE, input_paths, read_plan

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
    picture=r"curves|classes|features|evolution",


def checked(function, *arguments):
    """The function's result; what the user got wrong is one line and exit status 1, where an exception is a traceback."""
    try:
        return function(*arguments)
    except UserError as error:
        sys.stderr.write(f"gvbsm: {error}\n")
        sys.stderr.flush()
        raise SystemExit(1) from None


def environment(settings):
    """What every command finds in its environment. No parameters: a moved data folder, or curves that are drawn, make nothing
    stale. Not `shell.prefix`: a workflow that uses this one as a module would share it."""
    found = {
        # Last, for when snakemake is called by its path; an activated environment's own gvbsm comes first.
        "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)]),
        "GVBSM_DATA_ROOT": settings.data_root,
        "GVBSM_SOURCE": str(PACKAGE.parent),  # what envs/gvbsm.post-deploy.sh installs
    }
    # One that is not set leaves the caller's variable as it is.
    return found | ({"GVBSM_TRACKING": settings.tracking} if settings.tracking else {})


def stored(spec):
    """The store artifacts a job reads. Ancient: their paths already say what is inside."""
    return [ancient(str(STORE / path)) for path in input_paths(spec)]


@functools.cache
def planned_spec(key):
    """What is planned for a job of the store."""
    return checked(read_plan, key).spec


def planned_inputs(wildcards):
    """What a job of the store reads."""
    return stored(planned_spec(wildcards.key))


def planned_threads(wildcards):
    """CPU threads, which are part of the spec."""
    return planned_spec(wildcards.key)["settings"]["threads"]


include: "targets.smk"
