"""Mixtures over draws of the weights: what posteriors of votes and of measurements have in common.

Every quantile, interval, variance and probability is of the mixture: averaging per-draw quantiles would throw away the
disagreement between draws, which is what the draws are for.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Num

from greenpea.errors import GreenpeaError
from greenpea.quantiles import average


class Mixture:
    """One distribution a subject, mixed over draws: all alike, or by ``weights`` [draw, subject] that sum to 1."""

    weights: Float[np.ndarray, "draw subject"] | None

    @property
    def draws(self) -> int:
        """How many draws of the weights the mixture has."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def log_weights(self) -> Float[np.ndarray, "draw subject"]:
        """ln of each draw's share of the mixture: −∞ where it has none, −ln T where all count alike."""
        with np.errstate(divide="ignore"):
            return np.log(self.shares)

    @property
    def shares(self) -> Float[np.ndarray, "draw subject"]:
        """Each draw's share of the mixture, given or not."""
        if self.weights is None:
            return np.full((self.draws, len(self)), 1 / self.draws)
        return np.asarray(self.weights, np.float64)

    @property
    def effective_draws(self) -> Float[np.ndarray, " subject"]:
        """How many equally weighted draws each subject's mixture is worth: 1/Σ w² (Kish 1965), from 1 to T."""
        if self.weights is None:
            return np.full(len(self), float(self.draws))
        return 1 / np.square(self.weights, dtype=np.float64).sum(axis=0)

    def average(self, values: Num[np.ndarray, "draw subject ..."]) -> Float[np.ndarray, "subject ..."]:
        """Return the mixture's mean of what each draw says: Σ_t w_t v_t."""
        return average(values, self.weights)

    def pick(self, size: int, rng: np.random.Generator) -> Int[np.ndarray, "size subject"]:
        """Return, for each subject, ``size`` draws picked at random by their weights (with replacement)."""
        shape = (size, len(self))
        if self.weights is None:
            return rng.integers(self.draws, size=shape)
        # Every subject's cumulative weights end to end, so that one search serves all.
        cumulative = np.cumsum(self.weights, axis=0, dtype=np.float64)
        ladder = (cumulative / cumulative[-1] + np.arange(len(self))).T.ravel()
        rungs = np.searchsorted(ladder, rng.random(shape) + np.arange(len(self)), side="right")
        return np.clip(rungs - self.draws * np.arange(len(self)), 0, self.draws - 1)


def check_weights(weights: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise GreenpeaError unless weights have this shape, are at least 0, and sum to 1 for every subject."""
    if weights.shape != shape:
        raise GreenpeaError(f"weights of the draws have shape {weights.shape}, expected {shape}: draw, subject")
    # "Not all at least 0", for NaN is neither above nor below.
    if not ((weights >= 0).all() and np.allclose(weights.sum(axis=0, dtype=np.float64), 1, rtol=0, atol=1e-5)):
        raise GreenpeaError("weights of the draws are at least 0, and sum to 1 for every subject")


def join_weights(parts: list[Mixture]) -> np.ndarray | None:
    """Return the weights of mixtures side by side; None where none has any."""
    if all(part.weights is None for part in parts):
        return None
    return np.concatenate([part.shares for part in parts], axis=1)
