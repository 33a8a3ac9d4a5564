"""How far long work is, in its log."""

from __future__ import annotations

import logging
import time

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Log lines with count, rate and time left for long work, at most one every five seconds."""

    def __init__(self, logger: logging.Logger, total: int, unit: str) -> None:
        self._logger, self._total, self._unit = logger, total, unit
        self._start = self._last = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` of the total are finished; `note` is added to the line."""
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES and done < self._total:
            return
        self._last = now
        elapsed = max(now - self._start, 1e-9)
        rate = done / elapsed
        left = (self._total - done) / rate if rate else float("inf")
        self._logger.info(
            "%d/%d %s, %.3g/s, %.0f s left%s",
            done,
            self._total,
            self._unit,
            rate,
            left,
            f", {note}" if note else "",
        )
