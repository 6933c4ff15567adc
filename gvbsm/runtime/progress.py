"""Progress of a stage: a live line on a terminal, a plain line now and then in a log, and a word to whoever watches the job."""

from __future__ import annotations

import sys
import time
from collections import deque

from tqdm import tqdm

from gvbsm.runtime.distributed import ranks
from gvbsm.runtime.watching import Step, current

_LOG_SECONDS = 15.0
_MARKS = 60  # a second or a step apart, whichever is longer: what went before them is no longer part of the rate


class Progress:
    """Counts steps towards `total` under a title; `images` go through each, if it is known, or else as the job's watch says."""

    def __init__(self, title: str, total: int, done: int = 0, images: float | None = None) -> None:
        self.title, self.total, self.done = title, total, done
        self._said, self._steps = time.monotonic(), 0
        self._marks = deque([(self._said, 0)], maxlen=_MARKS)  # when how many steps were done
        self._shown = ranks().rank == 0
        self._watch = current() if self._shown else None
        self._images = self._watch.images_per_step(total) if self._watch and images is None else images
        if self._watch:
            self._watch.began(done, total)
        if done and self._shown:
            sys.stderr.write(f"{title}: goes on from its checkpoint at {done}/{total}\n")
        self._bar = tqdm(total=total, initial=done, desc=title, leave=False) if self._shown and sys.stderr.isatty() else None

    def step(self, **values: float) -> None:
        """One step is done; `values` (a loss, say) are shown beside it."""
        self.done += 1
        self._steps += 1  # not what `done` was raised by to stand where a checkpoint does
        rate = self._rate(time.monotonic())
        step = Step(self.title, self.done, self.total, rate, values, self._images and self._images * rate)
        if self._watch:
            self._watch.stepped(step)
        if self._bar is not None:
            self._draw(step)
        elif self._shown and (self.done == self.total or time.monotonic() - self._said >= _LOG_SECONDS):
            self._say(step)

    def _rate(self, now: float) -> float:
        """Steps per second of late: a first one may have compiled for minutes."""
        then, steps = self._marks[0]
        rate = (self._steps - steps) / max(now - then, 1e-9)
        if now - self._marks[-1][0] >= 1:
            self._marks.append((now, self._steps))
        return rate

    def _draw(self, step: Step) -> None:
        assert self._bar is not None
        self._bar.initial = self.done - self._steps
        shown = {"images/s": f"{step.images_per_second:.3g}"} if step.images_per_second else {}
        shown |= {name: f"{value:.4g}" for name, value in step.values.items()}
        if shown:
            self._bar.set_postfix(shown, refresh=False)
        self._bar.update(self.done - self._bar.n)
        if self.done == self.total:
            self._bar.close()

    def _say(self, step: Step) -> None:
        self._said = time.monotonic()
        speed = f", {step.images_per_second:.3g} images/s" if step.images_per_second else ""
        left = f", {(self.total - self.done) / step.rate:.0f} s left" if self.done < self.total else ""
        shown = "".join(f", {name} {value:.4g}" for name, value in step.values.items())
        sys.stderr.write(f"{self.title}: {self.done}/{self.total}, {step.rate:.3g}/s{speed}{left}{shown}\n")
        sys.stderr.flush()
