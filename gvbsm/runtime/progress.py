"""Progress of a stage: a live line on a terminal, or a plain line every few seconds in a log; also sent to the job's watch."""

from __future__ import annotations

import sys
import time
from collections import deque

from tqdm import tqdm

from gvbsm.method.ranks import ranks
from gvbsm.runtime.watching import Step, current

_LOG_SECONDS = 15.0
_MARKS = 60  # at least one second and one step apart; the rate is that since the oldest mark


class Progress:
    """Counts steps towards `total` under a title; `images` is the number of images per step, None to take it from the watch."""

    def __init__(self, title: str, total: int, done: int = 0, images: float | None = None) -> None:
        self.title, self.total, self.done = title, total, done
        self._logged, self._steps = time.monotonic(), 0  # time of the last line in the log; steps of this process
        self._marks = deque([(self._logged, 0)], maxlen=_MARKS)  # (time, steps)
        self._shown = ranks().rank == 0
        self._watch = current() if self._shown else None
        self._images = self._watch.images_per_step(total) if self._watch and images is None else images
        if self._watch:
            self._watch.began(done, total)
        if done and self._shown:
            sys.stderr.write(f"{title}: goes on from its checkpoint at {done}/{total}\n")
        self._bar = tqdm(total=total, initial=done, desc=title, leave=False) if self._shown and sys.stderr.isatty() else None

    def step(self, count: int = 1, /, **values: float) -> None:
        """`count` more steps are done; `values` (a loss, say) are shown beside them."""
        self.done += count
        self._steps += count  # without the steps of `done` that come from a checkpoint
        rate = self._rate(time.monotonic())
        step = Step(self.title, self.done, self.total, rate, values, self._images and self._images * rate)
        if self._watch:
            self._watch.stepped(step)
        if self._bar is not None:
            self._draw(step)
        elif self._shown and (self.done == self.total or time.monotonic() - self._logged >= _LOG_SECONDS):
            self._log(step)

    def _rate(self, now: float) -> float:
        """Recent steps per second, so that minutes of compilation in the first step do not count for long."""
        then, steps = self._marks[0]
        rate = (self._steps - steps) / max(now - then, 1e-9)
        if now - self._marks[-1][0] >= 1:
            self._marks.append((now, self._steps))
        return rate

    def _draw(self, step: Step) -> None:
        assert self._bar is not None
        shown = {"images/s": f"{step.images_per_second:.3g}"} if step.images_per_second else {}
        shown |= {name: f"{value:.4g}" for name, value in step.values.items()}
        if shown:
            self._bar.set_postfix(shown, refresh=False)
        self._bar.update(self.done - self._bar.n)
        if self.done == self.total:
            self._bar.close()

    def _log(self, step: Step) -> None:
        self._logged = time.monotonic()
        speed = f", {step.images_per_second:.3g} images/s" if step.images_per_second else ""
        left = f", {(self.total - self.done) / step.rate:.0f} s left" if self.done < self.total else ""
        shown = "".join(f", {name} {value:.4g}" for name, value in step.values.items())
        sys.stderr.write(f"{self.title}: {self.done}/{self.total}, {step.rate:.3g}/s{speed}{left}{shown}\n")
        sys.stderr.flush()
