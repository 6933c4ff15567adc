"""A whole iteration of recover: view, pass with statistics, backward, Adam, clamp; against the published order of operations.

Every layer is kept and the densification loss has weight 0. Ours is `Recovery` as the stage runs it: on CUDA it records its
iterations by itself and waits for the device about once a second, so many iterations are timed together.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import math
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as T

from benchmarks.recover import ALPHA, FIRST, SETTINGS, Problem, R, Setting, chosen
from benchmarks.timing import Timing, compare, precisions_on
from gvbsm.method.matching import Matching, StatisticsMatcher
from gvbsm.method.recovery import Recovery, RecoverySettings, SharedViews
from gvbsm.runtime.arithmetic import set_arithmetic
from gvbsm.training.precision import autocast

LR, BETAS = 0.1, (0.5, 0.9)
PAD, ROLL = 4, 32  # px, as the rows have
CHECKED = 3  # iterations: on CUDA the first is run, the second recorded, and both it and the third replayed
# Of the check. Positions are rounded to 1e-5 px, which a ResNet18 of random weights makes 1 % of its gradient at 224 px.
# bfloat16 rounds to 4e-3: its distance is printed, and only one that is no number fails.
TOLERANCE = {"float32": 0.05, "bfloat16": math.inf}
PLAIN = "plain hooks, float32"


class Draw(NamedTuple):
    """The view of all images in one iteration."""

    crop: tuple[int, int, int, int]  # top, left, height and width of what is cut out
    mirrored: bool
    roll: tuple[int, int]  # px down, to the right

    @staticmethod
    def of(setting: Setting) -> Draw:
        """From torch's global generator, as torchvision draws."""
        size = setting.size
        if setting.resized_crop:
            crop = RandomResizedCrop.get_params(torch.empty(3, size, size), [*setting.resized_crop], [3 / 4, 4 / 3])
        else:
            crop = (*torch.randint(2 * PAD + 1, (2,)).tolist(), size, size)
        roll = torch.randint(ROLL + 1, (2,)).tolist()
        return Draw(tuple(crop), bool(torch.rand(()) < 0.5), (roll[0], roll[1]))

    def view(self, x_BCHW: Tensor, setting: Setting) -> Tensor:
        """By torch's and torchvision's operations, one after another; what is outside the images is 0."""
        size = [setting.size, setting.size]
        padded_BCHW = x_BCHW if setting.resized_crop else T.pad(x_BCHW, [PAD])
        x_BCHW = T.resized_crop(padded_BCHW, *self.crop, size)  # a crop of this size is not resized
        x_BCHW = T.horizontal_flip(x_BCHW) if self.mirrored else x_BCHW
        return torch.roll(x_BCHW, self.roll, (2, 3))

    def positions(self, setting: Setting) -> Tensor:
        """The positions (2,S) that give the same view: where each pixel's own row and column go. Padding is far outside."""
        far = 2 * setting.size
        ramp_S = torch.arange(setting.size, dtype=torch.float64) + far
        rows_SS = ramp_S.unsqueeze(1).expand(setting.size, setting.size)
        of_both = self.view(torch.stack([rows_SS, rows_SS.T]).unsqueeze(1), setting).squeeze(1) - far
        # The padding of the other direction hides a row's position from some of its pixels.
        return torch.stack([of_both[0].amax(1), of_both[1].amax(0)]).float()


class Task(NamedTuple):
    """What both sides do: the iterations of one batch through these teachers in turn."""

    setting: Setting
    problems: list[Problem]
    draws: list[Draw]  # of every iteration
    positions_T2S: Tensor

    @staticmethod
    def of(setting: Setting, problems: list[Problem], iterations: int) -> Task:
        """The same views in every process."""
        torch.manual_seed(0)
        draws = [Draw.of(setting) for _ in range(iterations)]
        return Task(setting, problems, draws, torch.stack([draw.positions(setting) for draw in draws]))

    @property
    def x_BCHW(self) -> Tensor:
        return self.problems[0].x_BCHW

    def rate(self, iteration: int) -> float:
        """Step size: a cosine to 0."""
        return LR / 2 * (1 + math.cos(math.pi * iteration / len(self.draws)))

    def limits(self) -> tuple[Tensor, Tensor]:
        low = torch.full((1, 3, 1, 1), -2.0, device=self.x_BCHW.device)
        return low, -low


class Plain:
    """The iterations as published code writes them; each image is float32 in PyTorch's default layout."""

    def __init__(self, task: Task) -> None:
        self.task, self.iteration = task, 0
        self.hooks = [problem.hooks() for problem in task.problems]
        self.x_BCHW = task.x_BCHW.clone().requires_grad_()
        self.adam = torch.optim.Adam([self.x_BCHW], lr=LR, betas=BETAS)
        self.limits = task.limits()

    def run(self, count: int) -> None:
        for _ in range(count):
            draw, hooks = self.task.draws[self.iteration], self.hooks[self.iteration % len(self.hooks)]
            self.adam.param_groups[0]["lr"] = self.task.rate(self.iteration)
            logits_BK, statistics = hooks(draw.view(self.x_BCHW, self.task.setting))
            loss = F.cross_entropy(logits_BK, self.task.problems[0].labels_B) + R * statistics
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()
            with torch.no_grad():
                self.x_BCHW.clamp_(*self.limits)
            self.iteration += 1

    def remove(self) -> None:
        for hooks in self.hooks:
            hooks.remove()


class Way(NamedTuple):
    """One of our ways to run an iteration."""

    precision: str
    compiled: bool

    @property
    def name(self) -> str:
        return f"ours, {'compiled, ' if self.compiled else ''}{self.precision}"

    def matcher(self, problem: Problem) -> StatisticsMatcher:
        """On a network of its own: hooks of several matchers would see each other's passes."""
        return StatisticsMatcher(
            copy.deepcopy(problem.network),
            problem.targets,
            Matching(problem.patch, ALPHA, FIRST, "first", "update"),
            self.compiled,
            autocast=partial(autocast, problem.x_BCHW.device, self.precision),
        )


def ways(device: torch.device, options: Namespace) -> list[Way]:
    """Those that were asked for."""
    asked = [precision for precision in precisions_on(device) if options.precision in precision]
    return [Way(precision, compiled) for compiled in ((False, True) if options.compile else (False,)) for precision in asked]


def recovery_of(task: Task, matchers: list[StatisticsMatcher]) -> Recovery:
    """Our iterations of a task, from its beginning."""
    for matcher in matchers:
        matcher.reset()
    limits = task.limits()
    settings = RecoverySettings(
        iterations=len(task.draws), lr=LR, betas=BETAS, statistics_weight=R, densification_weight=0.0, tau=4.0,
        normalise="mean", conv_drop=0.0, backbone_order="round_robin",
    )  # fmt: skip
    views = SharedViews(task.positions_T2S, torch.zeros_like(limits[0]))
    return Recovery(task.x_BCHW, task.problems[0].labels_B, matchers, settings, views=views, limits=limits, key=0)


def advance(recovery: Recovery, count: int) -> None:
    """The next `count` iterations."""
    until = recovery.iteration + count
    while recovery.iteration < until:
        recovery.run(until)


def distance(got_BCHW: Tensor, expected_BCHW: Tensor) -> float:
    """Relative, the median over images. Of absolute values: where a gradient is near 0, rounding turns Adam's step around."""
    size_B, error_B = (x_BCHW.abs().flatten(1).sum(1) for x_BCHW in (expected_BCHW, got_BCHW - expected_BCHW))
    return float((error_B / size_B).median())


def check(task: Task, matcher: StatisticsMatcher) -> float:
    """The largest distance between our gradient and the plain one in the first iterations of the same images, and between
    what they change in them."""
    plain, recovery = Plain(task), recovery_of(task, [matcher])
    worst = 0.0
    with _exact_convolutions():
        for _ in range(CHECKED):
            before_BCHW = recovery.x_BCHW.detach().clone()
            with torch.no_grad():
                plain.x_BCHW.copy_(before_BCHW)
            plain.run(1)
            advance(recovery, 1)
            assert plain.x_BCHW.grad is not None and recovery.x_BCHW.grad is not None
            worst = max(worst, distance(recovery.x_BCHW.grad, plain.x_BCHW.grad))
            changes = (x_BCHW.detach() - before_BCHW for x_BCHW in (recovery.x_BCHW, plain.x_BCHW))
            worst = max(worst, distance(*changes))
    plain.remove()
    return worst


@contextlib.contextmanager
def _exact_convolutions() -> Iterator[None]:
    """No TF32 during the block: both layouts round in their own ways then, which hides errors."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def run(device: torch.device, options: Namespace) -> None:
    """Every teacher of the settings that were asked for, then the cycle of all.

    Raises:
        SystemExit: at the end, if a teacher failed or its image gradient was not the plain one.
    """
    set_arithmetic(device, exact=True)  # as in the stage
    failures: list[str] = []
    for which in [options.setting] if options.setting else SETTINGS:
        failures += _run(which, device, options)
    set_arithmetic(device, exact=False)
    if failures:
        raise SystemExit("\n".join(failures))


def _run(which: str, device: torch.device, options: Namespace) -> list[str]:
    """One setting; what failed."""
    setting, asked = SETTINGS[which], ways(device, options)
    batch = options.batch or (setting.gpu_batch if device.type == "cuda" else setting.batch)
    problems: list[Problem] = []
    matchers: dict[Way, list[StatisticsMatcher]] = {way: [] for way in asked}
    failures = []
    with contextlib.ExitStack() as stack:
        for name in chosen(setting, options):
            print(f"\nstep, {which}: {name}, batch {batch}", flush=True)
            try:
                problem = Problem(setting, name, batch, device, torch.float32)
                of_teacher = {way: stack.enter_context(way.matcher(problem)) for way in asked}
                failures += [f"step: {name}, {failure}" for failure in _checked(setting, problem, of_teacher, device)]
                _time(setting, [problem], {way: [matcher] for way, matcher in of_teacher.items()}, device, options.repeats)
            except RuntimeError as error:  # such as too little memory: the other teachers are timed nevertheless
                failures.append(f"step: {name}: expected timings, got {type(error).__name__}: {error}")
                print(f"  {failures[-1]}", flush=True)
                continue
            finally:
                _let_go(device)
            problems.append(problem)
            for way, matcher in of_teacher.items():
                matchers[way].append(matcher)
        if len(problems) > 1:
            print(f"\nstep, {which}: one iteration on each of {len(problems)} backbones in turn, batch {batch}")
            _time(setting, problems, matchers, device, options.repeats)
            _let_go(device)
    return failures


def _checked(setting: Setting, problem: Problem, matchers: dict[Way, StatisticsMatcher], device: torch.device) -> list[str]:
    """Print how near each way is to the plain iterations; those that are not near enough."""
    task, failures = Task.of(setting, [problem], CHECKED), []
    for way, matcher in matchers.items():
        error, most = check(task, matcher), TOLERANCE[way.precision]
        _let_go(device)
        print(f"  {way.name:<28} gradients and steps as the plain ones within {error:.2g}", flush=True)
        if not error <= most:
            failures.append(
                f"{way.name}: expected gradients and steps as the plain ones within {most}, got {error:.2g}; find out why "
                "before you use its timing"
            )
    return failures


def profile(device: torch.device, options: Namespace) -> None:
    """What the time of a few iterations goes to, operation by operation, of every teacher that was asked for."""
    set_arithmetic(device, exact=True)
    for which in [options.setting] if options.setting else SETTINGS:
        setting = SETTINGS[which]
        batch = options.batch or (setting.gpu_batch if device.type == "cuda" else setting.batch)
        for name in chosen(setting, options):
            problem = Problem(setting, name, batch, device, torch.float32)
            for way in ways(device, options):
                print(f"\nprofile, {which}: {name}, batch {batch}, {way.name}")
                _profile(setting, problem, way, device)
                _let_go(device)
    set_arithmetic(device, exact=False)


def _profile(setting: Setting, problem: Problem, way: Way, device: torch.device) -> None:
    on_gpu = device.type == "cuda"
    count, order = (8, "self_device_time_total") if on_gpu else (1, "self_cpu_time_total")
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_gpu else [])]
    with way.matcher(problem) as matcher:
        recovery = recovery_of(Task.of(setting, [problem], CHECKED + count), [matcher])
        advance(recovery, CHECKED)  # until it is recorded
        with torch.profiler.profile(activities=kinds) as profiled:
            started = time.perf_counter()
            advance(recovery, count)
            seconds = time.perf_counter() - started
    averages = profiled.key_averages()
    # On a GPU calls of the host carry the time of their kernels a second time.
    kernels = [average for average in averages if average.device_type == DeviceType.CUDA and not average.is_user_annotation]
    busy = sum(getattr(average, order) for average in (kernels if on_gpu else averages)) / 1e6
    print(f"{1e3 * seconds / count:.3f} ms an iteration under the profiler, {1e3 * busy / count:.3f} busy")
    print(*recovery.modes, sep="\n")
    print(averages.table(sort_by=order, row_limit=40, max_name_column_width=80), flush=True)


def _time(
    setting: Setting, problems: list[Problem], matchers: dict[Way, list[StatisticsMatcher]], device: torch.device, repeats: int
) -> None:
    """Time cycles over these teachers, and print them."""
    # On a GPU so many at once that ours fetches numbers as seldom as in a real run; the plain side never waits by itself.
    cycles, plain_cycles = (max(1, 48 // len(problems)), max(1, 12 // len(problems))) if device.type == "cuda" else (1, 1)
    runs = repeats + 2  # `compare` runs each two times more
    task = Task.of(setting, problems, cycles * runs * len(problems))
    plain, teachers = Plain(task), len(problems)
    recoveries = {way: recovery_of(task, list(of_way)) for way, of_way in matchers.items()}
    alternatives = {PLAIN: partial(plain.run, plain_cycles * teachers)}
    alternatives |= {way.name: partial(advance, recovery, cycles * teachers) for way, recovery in recoveries.items()}
    seconds = compare(alternatives, repeats, device)
    plain.remove()
    modes = {way.name: recovery.modes for way, recovery in recoveries.items()}
    for name, timing in seconds.items():
        count = plain_cycles if name == PLAIN else cycles
        _line(name, Timing([run / count for run in timing.runs]), seconds[PLAIN].median / plain_cycles, teachers, task)
        for state in dict.fromkeys(modes.get(name, [])):
            print(f"  {'':<28} {state} ({modes[name].count(state)} of {teachers})", flush=True)


def _line(name: str, cycle: Timing, plain_cycle: float, teachers: int, task: Task) -> None:
    """Milliseconds of a cycle, and of an iteration in the mean of its teachers."""
    per_cycle = f"{1e3 * cycle.median:10.3f} ms a cycle" if teachers > 1 else ""
    images = len(task.x_BCHW) * teachers / cycle.median
    print(
        f"  {name:<28} {per_cycle}{1e3 * cycle.median / teachers:10.3f} ms an iteration  "
        f"+- {100 * cycle.spread / cycle.median:4.1f} %  n={len(cycle.runs)}  {images:10.1f} images/s  "
        f"{plain_cycle / cycle.median:6.2f} x",
        flush=True,
    )


def _let_go(device: torch.device) -> None:
    """Give memory back: recordings keep theirs until the garbage collector finds them."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
