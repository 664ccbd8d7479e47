"""Quantiles of mixtures of Beta distributions: summed and searched for, against scipy's incomplete beta function."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import betainc

from greenpea import quantiles
from greenpea.quantiles import FINE

LEVELS = np.array([0.05, 0.5, 0.95])
DRAWS, CELLS = 20, 120


def draws(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Concentrations [draw, cell] of many kinds: opinions divided, sharp, draws that agree and that do not."""
    around = {
        "divided": (0.05, 0.5, 0.3),
        "usual": (4.0, 1.0, 0.2),
        "disagreeing": (20.0, 1.0, 1.0),
        "sharp": (1e4, 1.0, 0.02),
        "anything": (10.0, 4.0, 0.3),
    }
    scale, between, within = around[kind]
    shape = (DRAWS, CELLS, 2)
    found = scale * np.exp(rng.normal(0, between, (1, CELLS, 2)) + rng.normal(0, within, shape))
    return found[..., 0], found[..., 1]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["divided", "usual", "disagreeing", "sharp", "anything"])
def test_summed_quantiles_invert_the_mixture(kind: str, weighted: bool) -> None:
    rng = np.random.default_rng(1)
    a, b = draws(kind, rng)
    weights = rng.dirichlet(np.full(DRAWS, 0.5), CELLS).T if weighted else None
    found = quantiles.quantiles(a, b, weights, LEVELS, FINE)

    def reached(x: np.ndarray) -> np.ndarray:
        return quantiles.average(betainc(a, b, np.clip(x, 0, 1)), weights)

    slack = 1e-6  # of F, where it is flat between draws
    for level, x in zip(LEVELS, found, strict=True):
        assert (reached(x - FINE) <= level + slack).all()
        assert (reached(x + FINE) >= level - slack).all()


def test_both_ways_agree() -> None:
    a, b = draws("usual", np.random.default_rng(2))
    summed, searched = (quantiles.quantiles(a, b, None, LEVELS, tolerance) for tolerance in (FINE, 1e-9))
    np.testing.assert_allclose(summed, searched, atol=FINE, rtol=0)


def test_all_of_a_distribution_at_an_end() -> None:
    tiny, some = np.full((3, 4), np.exp(-60.0)), np.full((3, 4), 2.0)
    for tolerance in (FINE, 1e-9):
        np.testing.assert_allclose(quantiles.quantiles(tiny, some, None, LEVELS, tolerance), 0.0, atol=FINE)
        np.testing.assert_allclose(quantiles.quantiles(some, tiny, None, LEVELS, tolerance), 1.0, atol=FINE)
    both = quantiles.quantiles(tiny, tiny, None, [0.4, 0.6], FINE)  # a half at each end
    np.testing.assert_allclose(both, [[0.0] * 4, [1.0] * 4], atol=FINE)


def test_draws_narrow_and_far_apart_are_searched() -> None:
    a = np.array([[1e6], [1e2], [5e5]])
    b = np.array([[1e2], [1e6], [5e5]])
    _, _, points = quantiles._ranges(a, b)
    assert points[0] > quantiles.MOST_POINTS
    found = quantiles.quantiles(a, b, None, [0.1, 0.5, 0.9], FINE)[:, 0]
    np.testing.assert_allclose(found, [1e-4, 0.5, 1 - 1e-4], atol=2 * FINE)


def test_quantiles_do_not_depend_on_their_company() -> None:
    a, b = draws("anything", np.random.default_rng(3))
    whole = quantiles.quantiles(a, b, None, LEVELS, FINE)
    part = quantiles.quantiles(a[:, 7:30], b[:, 7:30], None, LEVELS, FINE)
    np.testing.assert_allclose(part, whole[:, 7:30], rtol=1e-12, atol=1e-15)
