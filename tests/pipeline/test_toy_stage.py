"""A stage is one file in pipeline/, one in stages/, a rule, a line in the registry and a place in the graph: nothing else.

The toy `blur` softens recovered images before they are labelled. All commands and pictures take it as they take the others.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gvbsm.store.code import PACKAGE

PIPELINE = '''
"""blur: the distilled images, softened."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gvbsm.pipeline.scale import Scale
from gvbsm.pipeline.stage import Artifact, Stage, planned
from gvbsm.store.spec import Inputs, Spec


class BlurInputs(Inputs):
    """Shards of distilled images."""

    images: Annotated[list[str], Field(min_length=1)]


class BlurSpec(Spec):
    """All images of a run."""

    stage: Literal["blur"] = "blur"
    inputs: BlurInputs
    width: int  # px


def plan_blur(name: str, images: list[Artifact]) -> Artifact:
    """The images of a run, softened."""
    return planned(BlurSpec, name, inputs=BlurInputs(images=[shard.path for shard in images]), width=3)


def _images(spec: BlurSpec, scale: Scale) -> int | None:
    return scale.distilled_images


STAGE = Stage(name="blur", about="soften the distilled images", spec=BlurSpec, checkpoints=lambda spec: False, images=_images)
'''
STAGE = '''
"""blur: soften the distilled images. Inputs: shards of images. Output: as recover's, without snapshots."""

import torch
from torch.nn import functional as F

from gvbsm.data.image_set import load_image_set
from gvbsm.runtime.devices import job_device
from gvbsm.runtime.progress import Progress


def run(job):
    """Blur the images of a spec."""
    job_device(job, 1)
    images = load_image_set(job, job.spec.inputs.images)
    x_NCHW = images[torch.arange(images.shape[0])].float()
    width = job.spec.width
    softened = F.avg_pool2d(x_NCHW, width, stride=1, padding=width // 2, count_include_pad=False).round().to(torch.uint8)
    classes = len(job.classes)
    numbers = torch.arange(images.shape[0] // classes).repeat(classes)
    Progress(job.title, 1).step()
    job.images = images.shape[0]
    job.write_tensors({"images": softened, "labels": images.labels, "numbers": numbers}, {}, {"images": images.shape[0]})
'''
RULE = """
rule blur:
    input:
        images=planned("images"),
    output:
        artifact="results/store/blur/{name}-{key}.safetensors",
        receipt="results/store/blur/{name}-{key}.json",
    log:
        "results/logs/blur/{name}-{key}.log",
    benchmark:
        "results/benchmarks/blur/{name}-{key}.tsv"
    conda:
        "../envs/gvbsm.yaml"
    shell:
        "gvbsm blur --spec results/.plan/{wildcards.key}.json --out {output.artifact} 2> {log}"
"""
COMPUTE = {"threads": 1, "precision": "float32"}
ROW = {
    "extends": "digits",
    "image_size": 8,
    "backbones": [{"name": "convnet", "options": {"width": 8}}],
    "squeeze": {"epochs": 1},
    "recover": {"iterations": 4, "batch_size": 20, "group": 2, "snapshots": [0, 0.5], "roll": 1},
    "relabel": {"epochs": 2, "shard_epochs": 2, "batch_size": 20},
    "evaluate": {
        "students": [{"name": "convnet", "options": {"width": 8}}],
        "seeds": [0],
        "epochs": 2,
        "test_every": 1,
        "baselines": ["random_hard"],
    },
}
RUN = "results/toy/ipc2"
# Makes everything that is planned for the pictures of the run, in one process; snakemake would take one for each job.
MAKE = f"""
import sys
from pathlib import Path
from gvbsm import cli
from gvbsm.config.project import load_config
from gvbsm.config.targets import parse_target
from gvbsm.pipeline.graph import plan_run
from gvbsm.pipeline.pictures import pictures_of, plan_picture
from gvbsm.pipeline.registry import STAGES, write_plans
from gvbsm.store.plans import STORE, plan_file, target_file

run, settings = parse_target({RUN!r}), load_config().pictures
targets = [(plan_run(run), run.accuracies)]
for picture in pictures_of("toy", None):
    targets.append((plan_picture("toy", 2, None, picture, settings), run.folder / "pictures" / f"{{picture}}.json"))
for artifacts, published in targets:
    write_plans(artifacts, published)
    for artifact in artifacts:
        stored = STAGES[artifact.stage].stored
        out = STORE / artifact.path if stored else published
        spec = plan_file(artifact.key) if stored else target_file(artifact.key)
        if not out.exists() and cli.main([artifact.stage, "--spec", str(spec), "--out", str(out), "--device", "cpu"]):
            sys.exit(f"{{artifact.stage}} failed")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project with the stage, in which nothing is made."""
    folder = tmp_path_factory.mktemp("toy") / "project"
    for part in ("gvbsm", "snakemake_logger_plugin_gvbsm", "workflow", "config"):
        shutil.copytree(PACKAGE.parent / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "config" / "datasets" / "toy.yaml").write_text(yaml.safe_dump(ROW, sort_keys=False))
    (folder / "gvbsm" / "pipeline" / "blur.py").write_text(PIPELINE)
    (folder / "gvbsm" / "stages" / "blur.py").write_text(STAGE)
    (folder / "workflow" / "rules" / "blur.smk").write_text(RULE)
    insert(folder / "workflow" / "Snakefile", 'include: "rules/recover.smk"\n', 'include: "rules/blur.smk"\n')
    registry = folder / "gvbsm" / "pipeline" / "registry.py"
    insert(registry, "from gvbsm.pipeline import (\n", "    blur,\n")
    insert(registry, "        recover,\n", "        blur,\n")
    graph = folder / "gvbsm" / "pipeline" / "graph.py"
    insert(graph, "from gvbsm.pipeline.adopt import plan_adopt\n", "from gvbsm.pipeline.blur import plan_blur\n")
    place = "        graph.images = plan_recover(row, ipc, graph.teachers, graph.statistics, graph.selected)\n"
    insert(graph, place, '    graph.shards = graph.images\n    graph.images = [plan_blur("toy", graph.shards)]\n')
    shards = "    images: list[Artifact] = field(default_factory=list)\n"
    insert(graph, shards, "    shards: list[Artifact] = field(default_factory=list)\n")
    text = graph.read_text()
    assert "self.selected, self.images)" in text
    graph.write_text(text.replace("self.selected, self.images)", "self.selected, self.shards, self.images)"))
    return folder


def insert(file: Path, after: str, line: str) -> None:
    text = file.read_text()
    assert text.count(after) == 1, f"{file}: {after!r}"
    file.write_text(text.replace(after, after + line))


def run(project: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(project), "GVBSM_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=project, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# Runs commands in one process, since most of a command's time is its start, and prints what each of them printed.
COMMANDS = """
import contextlib, io, json, sys
from gvbsm import cli

outputs = []
for command in json.loads(sys.argv[1]):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            status = cli.main(command.split())
        except SystemExit as end:  # --help
            status = end.code
    if status:
        sys.exit(f"gvbsm {command}: {text.getvalue()}")
    outputs.append(text.getvalue())
print(json.dumps(outputs))
"""


def gvbsm(project: Path, *commands: str) -> list[str]:
    return json.loads(run(project, "-c", COMMANDS, json.dumps(commands)).splitlines()[-1])


@pytest.mark.nightly("pages")
def test_a_stage_that_nothing_else_names_goes_through_every_command(project):
    planned = run(project, "-m", "snakemake", "-n", f"{RUN}/acc.json")
    assert re.search(r"^blur +1$", planned, re.MULTILINE)
    estimate, about, explain, status = gvbsm(project, f"estimate {RUN}", "--help", f"explain {RUN}", f"status {RUN}")
    assert re.search(r"^blur +1 +1 +\S+ ?\S* +unknown$", estimate, re.MULTILINE)
    assert "soften the distilled images" in about
    assert re.search(r"^missing  blur +toy-\w+$", explain, re.MULTILINE)
    assert re.search(r"^  blur +1 +0 +0 +1$", status, re.MULTILINE)

    run(project, "-c", MAKE)
    (blurred,) = (project / "results" / "store" / "blur").glob("*.safetensors")
    before = blurred.read_bytes()
    blurred.unlink()
    run(project, "-m", "snakemake", "--cores", "1", str(blurred.relative_to(project)))
    assert blurred.read_bytes() == before, "its rule makes it too"
    assert "Nothing to be done" in run(project, "-m", "snakemake", "-n", f"{RUN}/acc.json")

    commands = [f"estimate {RUN}", f"explain {RUN}", f"status {RUN}", "verify", "gc", f"compare {RUN}", f"report {RUN}"]
    estimate, explain, status, verify, gc, compare, *_ = gvbsm(
        project, *commands, f"export {RUN} --to imagefolder --out exported"
    )
    assert re.search(r"^blur +1 +0 ", estimate, re.MULTILINE)
    assert re.search(r"^present  blur +toy-\w+$", explain, re.MULTILINE)
    assert "jobs made" in status
    assert ", 0 damaged" in verify
    assert "blur" not in gc, "a published run needs it"
    assert "toy/ipc2" in compare
    assert re.search(r"<t[dh][^>]*>blur</t[dh]>", (project / RUN / "report.html").read_text()), "its cost"
    assert "made by gvbsm, in the stage blur" in (project / "exported" / "README.md").read_text()

    accuracies = json.loads((project / RUN / "acc.json").read_text())
    assert accuracies["cost"]["blur"]["images"] == 20 and accuracies["settings"]["blur"] == {"width": 3}
    for name in ("curves", "evolution", "features", "classes"):
        assert (project / RUN / "pictures" / f"{name}.png").stat().st_size

    (project / RUN / "acc.json").unlink()
    shutil.rmtree(project / RUN / "pictures")
    assert "results/store/blur/toy-" in gvbsm(project, "gc --unfinished")[0], "without the run nothing needs it"
