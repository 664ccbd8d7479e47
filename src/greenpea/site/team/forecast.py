"""When a campaign will end, from the last days' rate: an interval, or an honest "too little to tell"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil, floor

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

DAYS = 14  # looked back on
LEAST_DAYS = 4  # fewer days say nothing about how days differ
LEVEL = 0.9  # share of the futures that the interval holds
FUTURES = 4000
FAR = 3650.0  # days; beyond, the rate is as good as nothing


@dataclass(frozen=True)
class Forecast:
    """The days until ``outstanding`` classifications are there: between ``low`` and ``high`` in 90 % of futures.

    ``rate`` is classifications a day over the last ``days`` days.
    """

    low: float
    high: float
    rate: float
    days: int
    outstanding: int

    @property
    def words(self) -> str:
        """The interval, as one would say it."""
        if self.low > FAR:
            return "more than ten years"
        if self.high > FAR:
            return f"at least {floor(self.low):,} days"
        low, high = floor(self.low), ceil(self.high)
        if high <= 1:
            return "less than a day"
        return f"about {high:,} days" if low == high else f"between {low:,} and {high:,} days"


def forecast(counts: Sequence[int], outstanding: int, rng: np.random.Generator) -> Forecast | None:
    """Return when ``outstanding`` more classifications will be there, or None where that cannot be told.

    ``counts`` are the classifications of the last whole days, oldest first. Which days came is left to chance by
    a bootstrap over days; in each such world the days until the sum is reached follow the first passage of a
    Brownian motion with its drift and variance: an inverse Gaussian of mean R/μ and shape R²/σ² (Schrödinger
    1915). So both the doubt about the rate and the days' own unrest are in the interval. It takes the future to
    be like these days.
    """
    days = np.asarray(counts[-DAYS:], float)
    if outstanding <= 0 or len(days) < LEAST_DAYS or not days.any():
        return None
    worlds = rng.choice(days, (FUTURES, len(days)))
    worlds = np.clip(days.mean() + _widening(len(days)) * (worlds - days.mean()), 0, None)
    drift, variance = worlds.mean(axis=1), worlds.var(axis=1, ddof=1)
    waits = np.full(FUTURES, np.inf)
    steady = (drift > 0) & (variance == 0)
    waits[steady] = outstanding / drift[steady]
    moving = (drift > 0) & (variance > 0)
    waits[moving] = rng.wald(outstanding / drift[moving], outstanding**2 / variance[moving])
    low, high = np.quantile(waits, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return Forecast(float(low), float(high), float(days.mean()), len(days), outstanding)


def _widening(days: int) -> float:
    """Return by how much a bootstrap of so few days is too narrow: √(n/(n-1)) · t/z (Hesterberg 2015, section 4.1)."""
    tail = (1 + LEVEL) / 2
    return float(np.sqrt(days / (days - 1)) * student_t.ppf(tail, days - 1) / norm.ppf(tail))


def last_days(hours: Sequence[tuple[datetime, int]], now: datetime, began: datetime) -> list[int]:
    """Return the classifications of each of the last whole days, oldest first: 24 hours each, backwards from now.

    ``hours`` are (start, classifications); the hour not yet over is left out, and so are days before ``began``.
    """
    end = now.replace(minute=0, second=0, microsecond=0)
    counts = [0] * min(DAYS, max(0, (end - began) // timedelta(days=1)))
    for start, count in hours:
        age = (end - start - timedelta(hours=1)) // timedelta(days=1)
        if start < end and age < len(counts):
            counts[-1 - age] += count
    return counts
