"""Quantiles of mixtures of Beta distributions: many thousands at a time, for every answer of every subject.

Two ways. `search` solves for one level to any tolerance, at some eight evaluations of every draw's incomplete beta
function. `integrate` sums the mixture's density over a few dozen points, which gives all levels at once, to `FINE`,
at a thirtieth of the cost: a catalogue is mostly quantiles. Both work in u = ln x/(1 − x), where every Beta's density
is smooth, bounded and falls off at least exponentially.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import betainc, betaincinv, betaln, expit, logit, xlog1py, xlogy

FINE = 1e-4  # the tolerance, in the fraction, that `integrate` keeps
NEWTON_STEPS = 10  # of the search for a quantile, before it bisects
SHORT_STEPS = 2  # tolerances; the longest Newton step that may be the last

DROP = 9.0  # nats below its peak to which each draw's density is summed; beyond, its tail is an exponential
END = 1e-6  # fractions are not told apart below it, nor above 1 − END
PER_WIDTH = 2.4  # points within a standard deviation of the narrowest draw
WIDEST = 0.6  # between points: the density has poles at a distance of π from the real axis
MOST_POINTS = 768  # where draws are narrow and far apart; above, `search` is used
TINY = 1e-300
NUMBERS = 1 << 18  # held at a time, so that they stay in the processor's cache


def quantiles(
    a: Float[np.ndarray, "draw cell"],
    b: Float[np.ndarray, "draw cell"],
    weights: Float[np.ndarray, "draw cell"] | None,
    levels: Sequence[float] | np.ndarray,
    tolerance: float,
) -> Float[np.ndarray, "level cell"]:
    """Return x with Σ_t w_t I_x(a_t, b_t) = level, to an absolute ``tolerance``; without weights all count alike."""
    out = np.empty((len(levels), a.shape[1]))
    rest = np.arange(a.shape[1])
    if tolerance >= FINE:
        low, high, points = _ranges(a, b)
        for count in np.unique(points[points <= MOST_POINTS]):
            for cells in _chunks(np.flatnonzero(points == count), len(a) * int(count)):
                at = None if weights is None else weights[:, cells]
                out[:, cells] = integrate(a[:, cells], b[:, cells], at, levels, low[cells], high[cells], int(count))
        rest = np.flatnonzero(points > MOST_POINTS)
    if len(rest):
        at = None if weights is None else weights[:, rest]
        out[:, rest] = [search(a[:, rest], b[:, rest], at, float(level), tolerance) for level in levels]
    return out


def _chunks(cells: np.ndarray, numbers: int) -> Iterator[np.ndarray]:
    step = max(1, NUMBERS // numbers)
    for start in range(0, len(cells), step):
        yield cells[start : start + step]


# ---- by summing the density --------------------------------------------------------------------------


def _ranges(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where each cell's density is summed, from u to u, and at how many points."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        peak, width = np.log(a) - np.log(b), np.sqrt(1 / a + 1 / b)
        low = (peak - _reach(a, b, width)).min(axis=0)
        high = (peak + _reach(b, a, width)).max(axis=0)
    most = float(logit(1 - END))
    # Draws with all their mass beyond an end would leave nothing to sum over.
    low, high = np.clip(low, -most, most - 1), np.clip(high, 1 - most, most)
    between = np.minimum(width.min(axis=0) / PER_WIDTH, WIDEST)
    points = np.ceil((high - low) / between / 8) * 8 + 1  # few different numbers, so that many cells share one
    return low, high, np.nan_to_num(points, nan=np.inf)


def _reach(a: np.ndarray, b: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return how far to the left of its peak a density has fallen by `DROP`, or a little more.

    The fall at a distance δ is a δ + (a + b) ln[(b + a e^−δ)/(a + b)]: at first quadratic, at last linear.
    """
    linear = (DROP + (a + b) * np.log1p(a / b)) / a
    return np.minimum(linear, np.sqrt(2 * DROP) * width + DROP / (2 * a))


def integrate(
    a: Float[np.ndarray, "draw cell"],
    b: Float[np.ndarray, "draw cell"],
    weights: Float[np.ndarray, "draw cell"] | None,
    levels: Sequence[float] | np.ndarray,
    low: Float[np.ndarray, " cell"],
    high: Float[np.ndarray, " cell"],
    points: int,
) -> Float[np.ndarray, "level cell"]:
    """Return quantiles from the mixture's density at evenly spaced points of u, from ``low`` to ``high``.

    Over the whole line the trapezoidal rule converges exponentially, so that a draw's sum is its norm. Up to a point
    the sum is corrected by Euler and Maclaurin's −h²/12 (g' − g'₀); between points F is Hermite's quintic of F, g, g'.
    """
    step = (high - low) / (points - 1)
    u = low[:, None] + step[:, None] * np.arange(points)
    odds = np.exp(u)
    x, miss = odds / (1 + odds), -np.log(1 + odds)  # x, and ln(1 − x)
    mine, other = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    total = mine + other
    top = mine * (np.log(mine) - np.log(total)) + other * (np.log(other) - np.log(total))
    # g_t(u) ∝ x^a (1 − x)^b: a u + (a + b) ln(1 − x), less its value at the peak
    density = np.stack([mine, total, -top], axis=2) @ np.stack([u, miss, np.ones_like(u)], axis=1)
    np.exp(density, out=density)
    first, last = density[..., 0], density[..., -1]
    rise, fall = mine - total * x[:, :1], other - total * (1 - x[:, -1:])  # of ln g_t, at both ends
    left, right = first / np.maximum(rise, TINY), last / np.maximum(fall, TINY)  # what lies beyond: exponentials
    norm = step[:, None] * (density @ np.ones(points) - 0.5 * (first + last)) + left + right
    norm += step[:, None] ** 2 / 12 * (last * fall + first * rise)
    share = 1 / norm if weights is None else weights.T / norm
    share /= len(a) if weights is None else 1.0
    # g and g' = Σ_t w_t g_t (a_t − (a_t + b_t) x)
    sums = np.stack([share, share * mine, share * total], axis=1) @ density
    g, slope = sums[:, 0], sums[:, 1] - sums[:, 2] * x
    below = (share * left).sum(axis=1)
    halves = 0.5 * step[:, None] * (g[:, 1:] + g[:, :-1])
    reached = below[:, None] + np.concatenate([np.zeros((len(g), 1)), np.cumsum(halves, axis=1)], axis=1)
    reached -= step[:, None] ** 2 / 12 * (slope - slope[:, :1])
    return _invert(np.asarray(levels, np.float64)[:, None], u, step, reached, g, slope)


def _invert(
    levels: Float[np.ndarray, "level 1"],
    u: Float[np.ndarray, "cell point"],
    step: Float[np.ndarray, " cell"],
    reached: Float[np.ndarray, "cell point"],
    g: Float[np.ndarray, "cell point"],
    slope: Float[np.ndarray, "cell point"],
) -> Float[np.ndarray, "level cell"]:
    """Return x where F reaches each level: Newton within the right interval; in a tail, F is an exponential."""
    cells = np.arange(len(u))
    at = np.clip((reached < levels[..., None]).sum(axis=2) - 1, 0, u.shape[1] - 2)
    f0, g0, s0 = reached[cells, at], step * g[cells, at], step**2 * slope[cells, at]
    f1, g1, s1 = reached[cells, at + 1], step * g[cells, at + 1], step**2 * slope[cells, at + 1]
    # Hermite's quintic, F(s) = f0 + g0 s + s0 s²/2 + c3 s³ + c4 s⁴ + c5 s⁵
    r, p, q = f1 - f0 - g0 - s0 / 2, g1 - g0 - s0, s1 - s0
    c3, c4, c5 = 10 * r - 4 * p + q / 2, -15 * r + 7 * p - q, 6 * r - 3 * p + q / 2
    s = np.clip((levels - f0) / np.maximum(f1 - f0, TINY), 0.0, 1.0)
    for _ in range(3):
        value = f0 + s * (g0 + s * (s0 / 2 + s * (c3 + s * (c4 + s * c5))))
        rate = g0 + s * (s0 + s * (3 * c3 + s * (4 * c4 + s * 5 * c5)))
        s = np.clip(s - (value - levels) / np.maximum(rate, TINY), 0.0, 1.0)
    where = u[cells, at] + s * step
    first, final = reached[:, 0], 1 - reached[:, -1]
    if (levels < first).any() or (1 - levels < final).any():
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            before = u[:, 0] + np.log(levels / first) * first / g[:, 0]
            after = u[:, -1] - np.log((1 - levels) / final) * final / g[:, -1]
        where = np.where(levels < first, np.nan_to_num(before, nan=-np.inf), where)
        where = np.where(1 - levels < final, np.nan_to_num(after, nan=np.inf), where)
    return np.asarray(expit(where))


# ---- by solving for one level ------------------------------------------------------------------------


def search(
    a: Float[np.ndarray, "draw cell"],
    b: Float[np.ndarray, "draw cell"],
    weights: Float[np.ndarray, "draw cell"] | None,
    level: float,
    tolerance: float,
) -> Float[np.ndarray, " cell"]:
    """Solve Σ_t w_t I_x(a_t, b_t) = level for x, on the cells that are still open.

    Newton in u inside a bracket; bisection where that takes long. Starts at the quantile of the one Beta with the
    mixture's moments, often near enough for a single step. A short step ends the search: it leaves about its square
    over the narrowest draw's width.
    """
    fractions = a / (a + b)
    mean = average(fractions, weights)
    deviations = np.sqrt(fractions * (1 - fractions) / (a + b + 1))
    variance = average(deviations**2 + (fractions - mean) ** 2, weights)
    low, high = np.zeros_like(mean), np.ones_like(mean)
    x = _matched_quantile(mean, variance, level)
    log_norm = betaln(a, b)
    last = np.minimum(SHORT_STEPS * tolerance, 0.1 * deviations.min(axis=0))
    open_ = np.arange(len(mean))
    for iteration in range(60):
        at, at_a, at_b = x[open_], a[:, open_], b[:, open_]
        at_weights = None if weights is None else weights[:, open_]
        error = average(betainc(at_a, at_b, at), at_weights) - level
        low[open_] = np.where(error < 0, at, low[open_])
        high[open_] = np.where(error < 0, high[open_], at)
        after = 0.5 * (low[open_] + high[open_])
        settled = high[open_] - low[open_] <= tolerance
        if iteration < NEWTON_STEPS:
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                # dF/du = dF/dx · x (1 − x)
                slope = average(np.exp(xlogy(at_a, at) + xlog1py(at_b, -at) - log_norm[:, open_]), at_weights)
                proposed = expit(logit(at) - error / slope)
            inside = np.isfinite(proposed) & (proposed >= low[open_]) & (proposed <= high[open_])
            after = np.where(inside, proposed, after)
            settled |= inside & (np.abs(after - at) < last[open_])
        x[open_] = after
        open_ = open_[~settled]
        if not len(open_):
            break
    return x


def _matched_quantile(mean: np.ndarray, variance: np.ndarray, level: float) -> Float[np.ndarray, " cell"]:
    """Return the quantile of the Beta distribution with this mean and variance, kept off the ends of [0, 1]."""
    # Var = f (1 − f) / (s + 1) for Beta(s f, s (1 − f))
    spread = np.maximum(variance, TINY)
    total = np.clip(mean * (1 - mean) / spread - 1, 1e-3, 1e12)
    x = betaincinv(np.maximum(total * mean, TINY), np.maximum(total * (1 - mean), TINY), level)
    return np.clip(np.nan_to_num(x, nan=0.5), 1e-12, 1 - 1e-12)


def average(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Return the mean over the first axis, weighted by ``weights`` over the first two."""
    return values.mean(axis=0) if weights is None else np.einsum("ts...,ts->s...", values, weights)
