# How rules ask the planner: the path of a store artifact holds its key, the key names a plan file, and the plan has the inputs.
import gc
import os
import sys
from pathlib import Path

from gvbsm.config.project import job_environment, load_config
from gvbsm.config.yaml_files import config_file, read_yaml
from gvbsm.errors import UserError
from gvbsm.pipeline.registry import STAGES, read_plan
from gvbsm.store.code import PROJECT
from gvbsm.store.plans import STORE
from gvbsm.store.run import PICTURES
from gvbsm.store.spec import flat_paths
from gvbsm.store.working_folder import OWN, check_folders

# Planning makes many objects and frees few: at the default thresholds, garbage collection takes a tenth of its time.
gc.set_threshold(200_000, 50, 50)


if {*"{}"} & {*str(PROJECT)}:  # which Snakemake would fill in
    sys.stderr.write(f"gvbsm: {PROJECT}: expected a path without braces, got some; move the clone\n")
    raise SystemExit(1)


wildcard_constraints:
    name=r"[A-Za-z0-9_.-]+",
    key=r"[0-9a-f]{10}",
    dataset=r"(?!store/)[^/.][^/]*",
    run=r"[^/]+",
    picture="|".join(PICTURES),


def checked(function, *arguments):
    """The function's result. A UserError becomes one line and exit status 1: Snakemake would print its traceback."""
    try:
        return function(*arguments)
    except UserError as error:
        sys.stderr.write(f"gvbsm: {error}\n")
        sys.stderr.flush()
        raise SystemExit(1) from None


# A file in the place of a folder, which Snakemake answers with a traceback.
NEEDED = [Path(".snakemake"), *(Path(own) / stage for own in OWN for stage in STAGES)]
checked(check_folders, NEEDED, not workflow.dryrun)


CONFIG_FILE = str(checked(config_file))
checked(read_yaml, Path(CONFIG_FILE))  # a mistake in our words; Snakemake reads it again, and merges it with --config


def stored(paths):
    """Artifacts of the store. Their times do not count (ancient), since their paths already depend on the content."""
    return [ancient(str(STORE / path)) for path in flat_paths(paths)]


SPECS = {}  # by key: specs that this process has planned or read


def planned_spec(key):
    """The planned spec of a store artifact."""
    if key not in SPECS:
        SPECS[key] = checked(read_plan, key).spec
    return SPECS[key]


def planned(name):
    """An input function: the artifacts of a spec's inputs that have this name."""

    def inputs(wildcards):
        return stored(getattr(planned_spec(wildcards.key).inputs, name))

    return inputs


def planned_threads(wildcards):
    """CPU threads, which are part of the spec."""
    return planned_spec(wildcards.key).threads()


include: "targets.smk"
