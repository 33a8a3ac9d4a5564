"""95 % intervals: how far a number of few samples can be trusted."""

from __future__ import annotations

import scipy.stats


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval of a rate."""
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
