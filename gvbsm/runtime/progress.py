"""Progress of a stage: a live line on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from gvbsm.runtime.parallel import ranks

_LOG_SECONDS = 15.0


class Progress:
    """Counts steps towards `total` under a title."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done = title, total, done
        self._started, self._first = time.monotonic(), done
        self._said = self._started
        self._shown = ranks().rank == 0
        if done and self._shown:
            sys.stderr.write(f"{title}: goes on from its checkpoint at {done}/{total}\n")
        self._bar = tqdm(total=total, initial=done, desc=title, leave=False) if self._shown and sys.stderr.isatty() else None

    def step(self, **values: float) -> None:
        """One step is done; `values` (a loss, say) are shown beside it."""
        self.done += 1
        if self._bar is not None:
            self._bar.update()
            if values:
                self._bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()}, refresh=False)
        elif self._shown and (self.done == self.total or time.monotonic() - self._said >= _LOG_SECONDS):
            self._say(values)
        if self._bar is not None and self.done == self.total:
            self._bar.close()

    def _say(self, values: dict[str, float]) -> None:
        self._said = time.monotonic()
        rate = (self.done - self._first) / max(self._said - self._started, 1e-9)
        shown = "".join(f", {name} {value:.4g}" for name, value in values.items())
        left = f", {(self.total - self.done) / rate:.0f} s left" if rate and self.done < self.total else ""
        sys.stderr.write(f"{self.title}: {self.done}/{self.total}, {rate:.3g}/s{left}{shown}\n")
        sys.stderr.flush()
