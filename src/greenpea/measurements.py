"""Measurements: what the network believes about numbers with units, draw by draw. A sibling of `Posterior`.

Given the weights of one draw, each target is Gaussian with a mean and a standard deviation of its own, learned from
the array (Kendall & Gal 2017). The posterior is the *mixture* of these over the draws: its quantiles, intervals and
scores are the mixture's, never averages of the draws' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, ndtr, ndtri

from greenpea.errors import GreenpeaError
from greenpea.mixture import Mixture, check_weights, join_weights

HALF_LOG_2PI = 0.5 * np.log(2 * np.pi)
BISECTIONS = 60  # of a bracket of a quantile: to the last digit
BLOCK = 2_000_000  # numbers held at once where draws are compared with draws


class Spread(NamedTuple):
    """Variance of a measurement (unit: its own, squared), by the law of total variance."""

    total: Float[np.ndarray, "subject target"]
    within: Float[np.ndarray, "subject target"]  # E_t[σ_t²]: noise that more training does not take away
    between: Float[np.ndarray, "subject target"]  # Var_t[mean_t]: doubt about the weights


@dataclass(frozen=True, eq=False)
class MeasurementPosterior(Mixture):
    """Predicted distributions of numbers for subjects; immutable, numpy only, ignorant of networks.

    ``centres`` and ``deviations`` are each draw's means and standard deviations, in the targets' ``units`` ("1" for
    pure numbers). Given the draw, targets are independent of one another. ``distance`` and ``weights`` are as in
    `Posterior`.
    """

    subject_ids: np.ndarray
    targets: tuple[str, ...]
    units: tuple[str, ...]
    centres: Float[np.ndarray, "draw subject target"]
    deviations: Float[np.ndarray, "draw subject target"]
    distance: Float[np.ndarray, " subject"] | None = None
    weights: Float[np.ndarray, "draw subject"] | None = None

    def __post_init__(self) -> None:
        if len(set(self.targets)) < len(self.targets) or len(self.units) != len(self.targets) or not self.targets:
            raise GreenpeaError(
                f"targets {self.targets} with units {self.units}: name each target once, and give each a unit ('1' "
                f"for a pure number)"
            )
        shape = (len(self.centres), len(self.subject_ids), len(self.targets))
        for name in ("centres", "deviations"):
            if getattr(self, name).shape != shape:
                raise GreenpeaError(
                    f"{name} have shape {getattr(self, name).shape}, expected {shape}: draw, subject, target"
                )
        if not (np.asarray(self.deviations) > 0).all():
            raise GreenpeaError("standard deviations are above 0, of every draw, subject and target")
        if self.weights is not None:
            check_weights(self.weights, shape[:2])

    def __len__(self) -> int:
        return len(self.subject_ids)

    @property
    def draws(self) -> int:
        """How many draws of the weights the mixture has."""
        return len(self.centres)

    def index(self, target: str) -> int:
        """Return the place of a target. Raises GreenpeaError naming those there are."""
        if target not in self.targets:
            raise GreenpeaError(f"no target {target!r}; there are {', '.join(self.targets)}")
        return self.targets.index(target)

    def select(self, rows: np.ndarray | Sequence[int]) -> MeasurementPosterior:
        """Return the posterior of some subjects, by index or boolean mask, in that order."""
        rows = np.asarray(rows)
        return replace(
            self,
            subject_ids=self.subject_ids[rows],
            centres=self.centres[:, rows],
            deviations=self.deviations[:, rows],
            distance=None if self.distance is None else self.distance[rows],
            weights=None if self.weights is None else self.weights[:, rows],
        )

    @staticmethod
    def concatenate(parts: Sequence[MeasurementPosterior]) -> MeasurementPosterior:
        """Join posteriors of different subjects, of the same targets and with the same draws."""
        first = parts[0]
        distances = [part.distance for part in parts if part.distance is not None]
        return replace(
            first,
            subject_ids=np.concatenate([part.subject_ids for part in parts]),
            centres=np.concatenate([part.centres for part in parts], axis=1),
            deviations=np.concatenate([part.deviations for part in parts], axis=1),
            distance=np.concatenate(distances) if len(distances) == len(parts) else None,
            weights=join_weights(list(parts)),
        )

    # ---- the mixture -------------------------------------------------------------------------------

    def mean(self) -> Float[np.ndarray, "subject target"]:
        """Return the mixture's mean."""
        return self.average(self.centres)

    def variance(self) -> Spread:
        """Return the variance of the mixture, and its two parts."""
        # Var = E_t[σ_t²] + Var_t[mean_t]
        within = self.average(np.square(self.deviations, dtype=np.float64))
        between = self.average((self.centres - self.mean()) ** 2)
        return Spread(within + between, within, between)

    def cdf(self, values: Float[np.ndarray, "subject target"]) -> Float[np.ndarray, "subject target"]:
        """Return P(measurement ≤ value); the probability integral transform, uniform if calibrated."""
        return self.average(ndtr((values - self.centres) / self.deviations))

    def quantile(self, levels: float | Sequence[float]) -> Float[np.ndarray, "level subject target"]:
        """Return quantiles of the mixture, by bisection between the least and the greatest of the draws' own."""
        levels_ = np.atleast_1d(np.asarray(levels, np.float64))
        if ((levels_ <= 0) | (levels_ >= 1)).any():
            raise GreenpeaError(f"quantile levels lie strictly between 0 and 1, not {levels}")
        return np.stack([self._quantile(float(level)) for level in levels_])

    def _quantile(self, level: float) -> Float[np.ndarray, "subject target"]:
        own = self.centres + self.deviations * ndtri(level)
        low, high = own.min(axis=0).astype(np.float64), own.max(axis=0).astype(np.float64)
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            below = self.cdf(middle) < level
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return 0.5 * (low + high)

    def interval(self, level: float = 0.9) -> Float[np.ndarray, "bound subject target"]:
        """Return the central credible interval of the mixture: its lower and upper quantile."""
        return self.quantile([(1 - level) / 2, (1 + level) / 2])

    def sample(self, size: int, rng: np.random.Generator) -> Float[np.ndarray, "size subject target"]:
        """Return ``size`` simulated measurements per subject; targets of one sample share a draw."""
        draw, subjects = self.pick(size, rng), np.arange(len(self))
        centres, deviations = (np.asarray(v, np.float64)[draw, subjects] for v in (self.centres, self.deviations))
        return centres + deviations * rng.standard_normal(centres.shape)

    # ---- scores ------------------------------------------------------------------------------------

    def log_density(self, values: Float[np.ndarray, "subject target"]) -> Float[np.ndarray, "subject target"]:
        """Return ln p(value) of the mixture, in nats for the target's unit; 0 where the value is NaN, so unknown."""
        known = np.isfinite(values)
        z = (np.where(known, values, 0.0) - self.centres) / self.deviations
        # ln p(y | t) = −½ (y − ŷ)²/σ² − ½ ln σ² − ½ ln 2π
        per_draw = -0.5 * z**2 - np.log(self.deviations) - HALF_LOG_2PI
        found = logsumexp(per_draw + self.log_weights[..., None], axis=0)
        return np.where(known, found, 0.0)

    def crps(self, values: Float[np.ndarray, "subject target"]) -> Float[np.ndarray, "subject target"]:
        """Return the continuous ranked probability score, in the target's unit; 0 where the value is NaN.

        The closed form for mixtures of Gaussians (Grimit+2006). Costs draws² evaluations a subject.
        """
        known = np.isfinite(values)
        out = np.zeros(values.shape)
        step = max(1, BLOCK // (self.draws**2 * len(self.targets)))
        for start in range(0, len(self), step):
            rows = slice(start, start + step)
            m, s = (np.asarray(v[:, rows], np.float64) for v in (self.centres, self.deviations))
            w = self.shares[:, rows]
            apart = _mean_absolute(np.where(known[rows], values[rows], 0.0) - m, s)
            among = _mean_absolute(m[:, None] - m, np.sqrt(s[:, None] ** 2 + s**2))
            # E|X − y| − ½ E|X − X′|
            out[rows] = np.einsum("tsk,ts->sk", apart, w) - 0.5 * np.einsum("tusk,ts,us->sk", among, w, w)
        return np.where(known, out, 0.0)


def _mean_absolute(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return E|X| of a Gaussian: m (2 Φ(m/s) − 1) + 2 s φ(m/s)."""
    z = mean / deviation
    return np.asarray(mean * (2 * ndtr(z) - 1) + 2 * deviation * np.exp(-0.5 * z**2 - HALF_LOG_2PI))


# ---- what a head's outputs mean ------------------------------------------------------------------------

LOG_VARIANCE = (-16.0, 16.0)  # of standardised targets


@dataclass(frozen=True, eq=False)
class MeasurementLayout:
    """Which outputs belong to which target: all means, then all ln σ², both of targets standardised.

    ``centre`` and ``scale`` are the training values' mean and standard deviation, in the targets' units.
    """

    targets: tuple[str, ...]
    units: tuple[str, ...]
    centre: Float[np.ndarray, " target"]
    scale: Float[np.ndarray, " target"]

    @classmethod
    def of(
        cls, values: Float[np.ndarray, "subject target"], targets: Sequence[str], units: Sequence[str]
    ) -> MeasurementLayout:
        """Return the layout whose scales are those of ``values``; NaN is unknown.

        Raises GreenpeaError where a target has fewer than two different values.
        """
        for place, target in enumerate(targets):
            known = values[np.isfinite(values[:, place]), place]
            if len(np.unique(known)) < 2:
                raise GreenpeaError(
                    f"target {target!r} has {len(known)} known values, all alike: there is nothing to learn. Bring "
                    f"values that differ, or leave the target out"
                )
        masked = np.where(np.isfinite(values), values, np.nan)
        return cls(tuple(targets), tuple(units), np.nanmean(masked, axis=0), np.nanstd(masked, axis=0))

    @property
    def outputs(self) -> int:
        """How many outputs there are."""
        return 2 * len(self.targets)

    def standardised(self, values: Float[np.ndarray, "subject target"]) -> Float[np.ndarray, "subject target"]:
        """Return the targets as the head sees them."""
        return (values - self.centre) / self.scale

    def posterior(
        self,
        outputs: Float[np.ndarray, "subject draw output"],
        subject_ids: np.ndarray,
        distance: Float[np.ndarray, " subject"] | None = None,
    ) -> MeasurementPosterior:
        """Return the posterior that outputs stand for."""
        by_draw = np.asarray(outputs, np.float64).transpose(1, 0, 2)
        targets = len(self.targets)
        centres = self.centre + self.scale * by_draw[..., :targets]
        deviations = self.scale * np.exp(0.5 * np.clip(by_draw[..., targets:], *LOG_VARIANCE))
        return MeasurementPosterior(subject_ids, self.targets, self.units, centres, deviations, distance)


# ---- recalibration -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Widening:
    """Per target, by which factor every draw's standard deviation is too small; 1 changes nothing."""

    factors: tuple[float, ...]

    def apply(self, posterior: MeasurementPosterior) -> MeasurementPosterior:
        """Return the posterior with its noise widened (or narrowed)."""
        return replace(posterior, deviations=posterior.deviations * np.array(self.factors))


def widen(posterior: MeasurementPosterior, values: Float[np.ndarray, "subject target"]) -> Widening:
    """Fit a `Widening` on values the network did not learn from, by the mixture's likelihood.

    A prior (ln of the factor with s.d. 0.5) keeps targets with few known values near 1.
    """

    def loss(log_factor: float, place: int) -> float:
        factors = np.ones(len(posterior.targets))
        factors[place] = np.exp(log_factor)
        widened = Widening(tuple(factors)).apply(posterior)
        return float(-widened.log_density(values)[:, place].sum() + 0.5 * (log_factor / 0.5) ** 2)

    found = [
        minimize_scalar(loss, bounds=(-3.0, 3.0), args=(place,), method="bounded").x
        for place in range(len(posterior.targets))
    ]
    return Widening(tuple(float(np.exp(log_factor)) for log_factor in found))
