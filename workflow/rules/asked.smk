# What the command line asks for: targets that no rule makes, stages that --until names, and what comes first.
import re

from gvbsm.config.messages import did_you_mean
from gvbsm.config.targets import no_such_target
from gvbsm.pipeline.squeeze import teachers_before
from gvbsm.store.run import PICTURE_FORMS, RUN_FILES

# Where another Snakefile includes ours, more rules may follow, and this one is for no target.
ALONE = Path(workflow.main_snakefile).resolve() == (PROJECT / "workflow" / "Snakefile").resolve()

# All that other rules make or read.
KNOWN = (
    r"results/(\.plan|store|logs|benchmarks)/.*",
    r"results/[^/.][^/]*/ipc[^/]*",
    rf"results/[^/.][^/]*/compare\.(csv|{'|'.join(PICTURE_FORMS)})",
    rf"results/[^/.][^/]*/[^/]+/({'|'.join(map(re.escape, RUN_FILES))})",
    rf"results/[^/.][^/]*/[^/]+/pictures/({'|'.join(PICTURES)})\.({'|'.join(PICTURE_FORMS)}|json)",
)


def check_until(artifacts):
    """Refuse --until with a file, or with a stage that another one needs: Snakemake then starts nothing, and calls that a bug
    of its own."""
    refuse_unknown_rules()
    if paths := [name for name in workflow.dag_settings.until if "/" in name]:
        sys.stderr.write(f"gvbsm: --until: expected stages, got {paths[0]}; put -- before targets\n")
        raise SystemExit(1)
    above = {}  # by path: the stages that an artifact needs
    for artifact in artifacts if len(workflow.dag_settings.until) > 1 else []:  # after their inputs
        paths = artifact.spec.input_paths()
        above[artifact.path] = {Path(path).parent.name for path in paths}.union(*(above.get(path, ()) for path in paths))
        earlier = [stage for stage in above[artifact.path] if is_last(stage)]
        if earlier and is_last(artifact.stage):
            sys.stderr.write(f"gvbsm: --until: {artifact.stage} needs {earlier[0]}; name {artifact.stage} alone\n")
            raise SystemExit(1)


def refuse_unknown_rules():
    """Refuse a name that is no stage where an option takes stages, and list them: Snakemake takes it for a file."""
    asked, known = workflow.dag_settings, [rule.name for rule in workflow.rules]
    rules = [name for name in known if name.rpartition("_")[2] not in ("all", "folder", "unknown")]
    for option, names in (("--until", asked.until), ("--forcerun", asked.forcerun), ("--omit-from", asked.omit_from)):
        for name in (name for name in map(str, names) if "/" not in name and name not in known):
            hint = did_you_mean(name, rules)
            sys.stderr.write(f"gvbsm: {option}: unknown stage {name!r}; {hint}choose from {', '.join(rules)}\n")
            raise SystemExit(1)


def refused_target(wildcards):
    """Refuse a target that no other rule makes, in our words."""
    refuse_unknown_rules()
    sys.stderr.write(f"gvbsm: {no_such_target(wildcards.target, ['all'])}\n")
    raise SystemExit(1)


def is_last(stage):
    """Whether --until names a stage: Snakemake starts no job that waits for one of its artifacts. So none may wait that only
    would come later; kept epochs of a training then each train from the beginning if they run at once."""
    named = workflow.dag_settings.until
    return any(name == stage or name.endswith(f"_{stage}") for name in named)  # in a module, rules have a prefix


RUNS = {}  # by key of an artifact, and of a planned target that has it: the target's checks, and its teachers' specs by path


def before(stage):
    """An input function: what may fail within seconds in the same run, and so comes before a long job that does not read it.
    None for a job that is made, which Snakemake would make again. A job of its own process has no plan of the run, and begins
    later anyway."""

    def inputs(wildcards):
        spec = planned_spec(wildcards.key)
        if (STORE / stage / f"{wildcards.name}-{wildcards.key}{spec.suffix}").exists():
            return []
        runs = RUNS.get(wildcards.key, {})
        paths = [path for checks, teachers in runs.values() for path in checks + teachers_before(spec, teachers)]
        return stored(path for path in dict.fromkeys(paths) if not is_last(Path(path).parent.name))

    return inputs
