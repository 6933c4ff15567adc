"""From settings to the artifacts of one target: every spec, and so every key and path, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from gvbsm.config.load import check_row, read_row
from gvbsm.config.messages import Place, Source
from gvbsm.config.row import Backbone, Row
from gvbsm.config.shapes import RandomImages
from gvbsm.config.targets import Target
from gvbsm.pipeline.adopt import plan_adopt
from gvbsm.pipeline.check import plan_check
from gvbsm.pipeline.convert import plan_convert
from gvbsm.pipeline.evaluate import plan_evaluate
from gvbsm.pipeline.judge import plan_judge
from gvbsm.pipeline.prepare import plan_prepare
from gvbsm.pipeline.publish import PublishInputs, PublishSpec
from gvbsm.pipeline.recover import plan_recover
from gvbsm.pipeline.relabel import plan_relabel
from gvbsm.pipeline.select import plan_select
from gvbsm.pipeline.squeeze import plan_squeeze
from gvbsm.pipeline.stage import Artifact, paths_of, planned
from gvbsm.pipeline.statistics import plan_statistics
from gvbsm.store.spec import Json


@dataclass
class _Graph:
    """The artifacts of a run by their role."""

    row: Row
    data: Artifact
    twins: list[Artifact] = field(default_factory=list)  # teachers that only serve to measure statistics
    teachers: list[Artifact] = field(default_factory=list)
    statistics: list[Artifact] = field(default_factory=list)
    selected: list[Artifact] = field(default_factory=list)
    images: list[Artifact] = field(default_factory=list)
    judges: list[Artifact] = field(default_factory=list)  # a network, and what it says of the images
    labels: list[Artifact] = field(default_factory=list)
    random_labels: list[Artifact] = field(default_factory=list)
    students: dict[str, dict[str, Artifact]] = field(default_factory=dict)  # by label, then by kind of training set

    def in_order(self, check: Artifact) -> list[Artifact]:
        """Each artifact after its inputs, `check` as early as it can be."""
        evaluations = [evaluation for by_kind in self.students.values() for evaluation in by_kind.values()]
        images = (self.twins, self.teachers, self.statistics, self.selected, self.images)
        of_images = (self.judges, self.labels, self.random_labels)
        return [self.data, check, *(artifact for group in images + of_images for artifact in group), *evaluations]


def plan(dataset: str, ipc: int, recipe: str | None = None) -> list[Artifact]:
    """Every artifact of `results/<dataset>/ipc<ipc>[-<recipe>]`, each after its inputs, publish last.

    Raises:
        SettingsError: if the row or the recipe is wrong.
    """
    return plan_read(Target(dataset, ipc, recipe), *read_row(dataset, recipe))


def plan_read(target: Target, merged: Json, sources: dict[Place, Source]) -> list[Artifact]:
    """The `plan` of a run whose row `read_row` has read.

    Raises:
        SettingsError: if the row or the recipe is wrong.
    """
    row, ipc = check_row(merged, sources), target.ipc
    data = plan_prepare(row)
    graph = _Graph(row, data)
    _add_teachers(graph)
    random = RandomImages(ipc=ipc, seed=row.evaluate.random_seed)
    _add_images(graph, ipc)
    _add_judge(graph)
    _add_labels(graph, random)
    networks = [*zip(row.backbones, graph.teachers, strict=True), *([(row.judge, graph.judges[0])] if row.judge else [])]
    check = plan_check(row, ipc, data, networks, graph.images, graph.labels)
    _add_students(graph, random)
    artifacts = [*graph.in_order(check), _publish(graph, check, target, merged)]
    return list({artifact.path: artifact for artifact in artifacts}.values())


def plan_run(target: Target) -> list[Artifact]:
    """The `plan` of a target's run."""
    return plan(target.dataset, target.ipc, target.recipe)


def _add_teachers(graph: _Graph) -> None:
    """Teachers, and their statistics if recover needs any."""
    row, data = graph.row, graph.data
    needs_statistics = row.recover.needs_statistics and not row.distilled
    for backbone in row.backbones:
        teacher = plan_squeeze(row, backbone, data, backbone.squeeze.seed)
        graph.teachers.append(teacher)
        if needs_statistics:
            measured_teacher = _measured_teacher(graph, backbone, teacher)
            graph.statistics.append(plan_statistics(row, backbone, data, measured_teacher))


def _measured_teacher(graph: _Graph, backbone: Backbone, teacher: Artifact) -> Artifact:
    """The teacher in which the statistics of a backbone are measured: itself, or a twin from another seed."""
    if graph.row.statistics.measured_in == "own" or backbone.weights is not None:
        return teacher
    graph.twins.append(plan_squeeze(graph.row, backbone, graph.data, backbone.squeeze.seed + 1))
    return graph.twins[-1]


def _add_images(graph: _Graph, ipc: int) -> None:
    """Distilled images: adopted from others, recovered, or selected real images as they are."""
    row = graph.row
    if row.distilled:
        graph.images = [plan_adopt(row, row.distilled, ipc, graph.data)]
        return
    if row.select:
        graph.selected = plan_select(row, row.select, ipc, graph.data, graph.teachers)
    graph.images = graph.selected
    if row.recover.iterations:
        graph.images = plan_recover(row, ipc, graph.teachers, graph.statistics, graph.selected)


def _add_judge(graph: _Graph) -> None:
    """The network that judges the images, if the row names one."""
    row = graph.row
    if row.judge:
        network = plan_squeeze(row, row.judge, graph.data, row.judge.squeeze.seed)
        graph.judges = [network, plan_judge(row, row.judge, network, graph.images)]


def _add_labels(graph: _Graph, random: RandomImages) -> None:
    """Soft labels of the distilled images, and of random real images if a baseline needs them."""
    row = graph.row
    if row.distilled and row.distilled.labels:
        graph.labels = plan_convert(row, row.distilled, graph.images[0])
    else:
        graph.labels = plan_relabel(row, graph.teachers, graph.images, None, graph.data)
    if "random_soft" in row.evaluate.baselines:
        graph.random_labels = plan_relabel(row, graph.teachers, None, random, graph.data)


def _add_students(graph: _Graph, random: RandomImages) -> None:
    """The evaluation of every student on the distilled images and on the baselines."""
    row = graph.row
    online = graph.teachers if row.relabel.online else []
    training_sets: dict[str, tuple[list[Artifact], list[Artifact], list[Artifact], RandomImages | None]] = {
        "distilled": (graph.images, graph.labels, online, None),
        "random_soft": ([], graph.random_labels, online, random),
        "random_hard": ([], [], [], random),
        "distilled_hard": (graph.images, [], [], None),
    }
    for student in row.evaluate.students:
        graph.students[student.label] = {
            kind: plan_evaluate(row, student, kind, graph.data, *training_sets[kind])
            for kind in ("distilled", *row.evaluate.baselines)
        }


def _publish(graph: _Graph, check: Artifact, target: Target, merged: Json) -> Artifact:
    """The artifact that gathers the run into acc.json."""
    row = graph.row
    start = [] if graph.selected == graph.images else graph.selected
    inputs = PublishInputs(
        data=graph.data.path,
        check=check.path,
        teachers={backbone.label: teacher.path for backbone, teacher in zip(row.backbones, graph.teachers, strict=True)},
        twins=paths_of(graph.twins) or None,
        statistics=paths_of(graph.statistics),
        selected=paths_of(start) or None,
        images=paths_of(graph.images),
        judge={row.judge.label: graph.judges[-1].path} if row.judge else None,
        judge_network=graph.judges[0].path if row.judge else None,
        labels=paths_of(graph.labels),
        random_labels=paths_of(graph.random_labels),
        students={label: {kind: run.path for kind, run in by_kind.items()} for label, by_kind in graph.students.items()},
    )
    return planned(
        PublishSpec,
        f"{target.dataset}-{target.run}",
        dataset=target.dataset,
        ipc=target.ipc,
        recipe=target.recipe,
        headline=row.evaluate.headline,
        row=merged,
        inputs=inputs,
    )
