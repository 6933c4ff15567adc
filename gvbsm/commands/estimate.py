"""The cost of a target before it is run: jobs, bytes, and hours at the rates of earlier jobs, in this store or elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gvbsm.commands.rates import JobRate, Rate, job_rate, network_text, this_device
from gvbsm.config.project import load_config
from gvbsm.config.targets import parse_target
from gvbsm.errors import UserError
from gvbsm.format import readable_bytes
from gvbsm.pipeline.pictures import plan_target
from gvbsm.pipeline.prepare import PrepareSpec
from gvbsm.pipeline.registry import STAGES, STORED
from gvbsm.pipeline.scale import Scale
from gvbsm.pipeline.squeeze import goes_on_from
from gvbsm.pipeline.stage import Artifact
from gvbsm.store.keys import canonical
from gvbsm.store.plans import STORE, files_in
from gvbsm.store.receipts import KEYED, Receipt, read_receipt, receipt_path
from gvbsm.store.spec import Json


@dataclass
class _Sum:
    """A sum in which some values may be unknown."""

    value: float = 0  # of the known values
    known: int = 0  # their number
    unknown: int = 0

    def add(self, value: float | None) -> None:
        self.value += value or 0
        self.known += value is not None
        self.unknown += value is None

    def __add__(self, other: _Sum) -> _Sum:
        return _Sum(self.value + other.value, self.known + other.known, self.unknown + other.unknown)

    def text(self, readable: Callable[[float], str]) -> str:
        if not self.known:
            return "unknown"
        return ("> " if self.unknown else "") + readable(self.value)


@dataclass
class _Stage:
    """The jobs of a stage: the bytes of all, and the seconds of those still to run."""

    jobs: int = 0
    to_run: int = 0
    bytes: _Sum = field(default_factory=_Sum)
    seconds: _Sum = field(default_factory=_Sum)
    rates: frozenset[tuple[str, Rate]] = frozenset()  # of other devices, or each of the network for which it was taken


def estimate(target: str) -> str:
    """A line per stage and a last line for all, as if jobs ran one after another on one device.

    Bytes of images and soft labels follow from the settings. The size of other files and the speed of jobs are estimated from
    the jobs of the same kind in the store: the same stage, networks and image size, and if possible the same precision,
    threads and compilation. If there is none, the speed is one that was recorded for such networks on some device.
    """
    run = parse_target(target)
    artifacts = plan_target(run, load_config().pictures)
    scale, earlier_jobs, recorded = _scale(artifacts, run.ipc), _EarlierJobs(), _RecordedRates(artifacts)
    shared = _trained_before(artifacts, scale)
    stages: dict[str, _Stage] = {}
    for artifact in artifacts:
        if STAGES[artifact.stage].stored:
            stage = stages.setdefault(artifact.stage, _Stage())
            stage.jobs += 1
            images = STAGES[artifact.stage].images(artifact.spec, scale)
            own = images and images - shared.get(artifact.path, 0)
            _add(stage, artifact, own, scale, earlier_jobs, recorded)
    return _table(stages)


def _trained_before(artifacts: list[Artifact], scale: Scale) -> dict[str, int]:
    """The images that a teacher's job does not train on by path, since a job still to run for an earlier epoch has done so."""
    teachers = [artifact for artifact in artifacts if artifact.stage == "squeeze"]
    to_run = {artifact.path: artifact.spec for artifact in teachers if not _receipt(STORE / artifact.path)}
    earlier = {path: goes_on_from(spec, to_run) for path, spec in to_run.items()}
    return {path: STAGES["squeeze"].images(to_run[before], scale) or 0 for path, before in earlier.items() if before}


def _add(
    stage: _Stage,
    artifact: Artifact,
    images: int | None,
    scale: Scale,
    earlier_jobs: _EarlierJobs,
    recorded: _RecordedRates,
) -> None:
    """Add a job's bytes and, if it is still to run, its seconds; `images` are those that it processes itself."""
    receipt = _receipt(STORE / artifact.path)
    if receipt:
        stage.bytes.add(receipt["bytes"])
        stage.seconds.add(0)
        return
    stage.to_run += 1
    record, similar = STAGES[artifact.stage], earlier_jobs.similar(artifact)
    size = record.bytes(artifact.spec, scale)
    if size is None and similar and record.bytes_as_before:
        size = similar["bytes"]
    rate = similar["images"] / similar["seconds"] if similar and similar["images"] and similar["seconds"] else None
    if images and not rate and (other := recorded.similar(artifact)):
        rate = other.images_per_second
        stage.rates |= {(name, taken) for name, taken in other.of.items() if name or taken.device != this_device()}
    stage.bytes.add(size)
    stage.seconds.add(0 if images == 0 else images / rate if images and rate else None)


class _Kind(NamedTuple):
    """What decides the speed of a job."""

    stage: str
    networks: tuple[str, ...]
    size: int | None  # px
    more: str = ""


class _EarlierJobs:
    """The receipts of the store by the kind of their jobs."""

    def __init__(self) -> None:
        self._by_kind: dict[_Kind, Receipt] = {}
        for stage in STORED:
            for file in files_in(STORE / stage):
                receipt = _receipt(file) if file.suffix != ".json" else None
                if receipt:
                    for exactly in (False, True):
                        self._by_kind[_kind(stage, file.stem, receipt["spec"], exactly)] = receipt

    def similar(self, artifact: Artifact) -> Receipt | None:
        """The receipt of a job of exactly the same kind, or else of nearly the same kind."""
        kinds = (_kind(artifact.stage, artifact.name, artifact.spec.json_object, exactly) for exactly in (True, False))
        return next((self._by_kind[kind] for kind in kinds if kind in self._by_kind), None)


class _RecordedRates:
    """The rates in the package for jobs with the same networks, whatever they are called and trained on."""

    def __init__(self, artifacts: list[Artifact]) -> None:
        networks = {artifact.path: getattr(artifact.spec, "network", None) for artifact in artifacts}
        self._networks = {path: network_text(shape.name, shape.options) for path, shape in networks.items() if shape}
        self._known: dict[_Kind, JobRate | None] = {}

    def similar(self, artifact: Artifact) -> JobRate | None:
        """The rate of such a job, or of its networks or those like them, on the device most like this one."""
        raw = artifact.spec.json_object
        source = [raw["source"]["kind"]] if raw.get("source") else []
        used = [self._networks[path] for path in (artifact.path, *_teachers(raw)) if path in self._networks]
        precision = (raw.get("settings") or {}).get("precision")
        kind = _Kind(artifact.stage, tuple(sorted(source + used)), _size(raw), str(precision))
        if kind not in self._known:
            self._known[kind] = job_rate(STAGES[kind.stage], kind.networks, kind.size, precision)
        return self._known[kind]


def _kind(stage: str, name: str, raw: Json, exactly: bool) -> _Kind:
    """The kind of a job among those of a store, with `exactly` by the smaller factors too. `raw` is the spec's JSON."""
    settings, is_sharded = raw.get("settings") or {}, STAGES[stage].sharded
    factors = {name: settings.get(name) for name in ("precision", "cpu_precision", "threads", "compile")}
    factors["own"] = raw.get("cpu_precisions")
    match = KEYED.fullmatch(name)
    more: dict[str, Any] = {
        "source": raw.get("source"),
        "network": raw.get("network") or (None if is_sharded else match["name"] if match else name),
        "random": is_sharded and bool(raw.get("random")),
        "factors": factors if exactly else None,
    }
    return _Kind(stage, tuple(Path(path).stem[:-11] for path in _teachers(raw)), _size(raw), canonical(more))


def _teachers(raw: Json) -> list[str]:
    """The paths of the teachers that a job reads, in the store."""
    inputs = raw.get("inputs") or {}
    return [*([inputs["teacher"]] if inputs.get("teacher") else []), *(inputs.get("teachers") or [])]


def _size(raw: Json) -> int | None:
    """The size of the images of a job in px; None for prepare."""
    return (raw.get("pixels") or {}).get("image_size")


def _receipt(artifact: Path) -> Receipt | None:
    """The receipt of an artifact; None if either is missing or damaged."""
    try:
        return read_receipt(artifact) if receipt_path(artifact).is_file() else None
    except UserError:
        return None


def _scale(artifacts: list[Artifact], ipc: int) -> Scale:
    """The scale of a planned run."""
    data = next(artifact.spec for artifact in artifacts if isinstance(artifact.spec, PrepareSpec))
    return Scale(data.classes, _training_images(data), data.classes * ipc)


def _training_images(data: PrepareSpec) -> int | None:
    """The number in a prepared data set of the same source, in any form, or else the known number of this source."""
    source = canonical(data.source.model_dump())
    for file in files_in(STORE / "prepare"):
        receipt = _receipt(file) if file.suffix != ".json" else None
        if receipt and canonical(receipt["spec"]["source"]) == source:
            return int(receipt["summary"]["train_images"])
    return data.known_training_images


def _table(stages: dict[str, _Stage]) -> str:
    total = _Stage()
    for stage in stages.values():
        sums = {name: getattr(total, name) + getattr(stage, name) for name in ("jobs", "to_run", "bytes", "seconds")}
        total = _Stage(**sums, rates=total.rates | stage.rates)
    lines = [f"{'stage':<11}{'jobs':>6}{'to run':>8}{'size':>12}{'hours to run':>14}"]
    for name, stage in [*stages.items(), ("all", total)]:
        hours = ("~ " if stage.rates else "") + stage.seconds.text(lambda seconds: f"{seconds / 3600:.2f}")
        lines.append(f"{name:<11}{stage.jobs:>6}{stage.to_run:>8}{stage.bytes.text(readable_bytes):>12}{hours:>14}")
    if total.seconds.unknown:
        lines.append("unknown: no such job has run here, nor is its speed recorded; run a recipe with few epochs to measure it")
    return "\n".join(lines + _rates_text(total.rates)) + "\n"


def _rates_text(rates: frozenset[tuple[str, Rate]]) -> list[str]:
    """Where the rates of other devices are from, and which rate was taken for which network."""
    others = sorted({rate.where for network, rate in rates if not network})
    lines = [f"~ at rates recorded on another device: {'; '.join(others)}"] if others else []
    taken: dict[str, dict[str, list[str]]] = {}
    for network, rate in sorted(rates, key=lambda pair: (list(STAGES).index(pair[1].stage), pair[0], pair[1].networks)):
        if network:
            by_rate = taken.setdefault(f"{rate.stage} at rates on {rate.where}", {})
            by_rate.setdefault(f"{' '.join(rate.networks)} at {rate.image_size} px", []).append(network)
    for stage, by_rate in taken.items():
        lines.append(f"~ {stage}: " + "; ".join(f"{rate} for {', '.join(networks)}" for rate, networks in by_rate.items()))
    return lines
