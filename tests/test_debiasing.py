"""Redshift debiasing, where the bias is planted and the unbiased fractions are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from greenpea.debiasing import debias, debias_votes, match
from greenpea.errors import GreenpeaError
from greenpea.votes import Votes
from hands import galaxy_tree, one_question


def _planted(subjects: int = 6000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True fractions, those observed when features fade with redshift, and redshifts."""
    rng = np.random.default_rng(seed)
    redshift = rng.uniform(0.02, 0.25, subjects)
    featured = rng.beta(1.2, 1.5, subjects)
    seen = featured ** (1 + 8 * (redshift - 0.02))
    return np.stack([featured, 1 - featured], 1), np.stack([seen, 1 - seen], 1), redshift


def test_a_planted_bias_is_taken_out() -> None:
    truth, seen, redshift = _planted()
    found = debias(seen, redshift, bins=12)
    far = found.bin == 11
    near = found.bin == 0
    assert ks_2samp(seen[far, 0], truth[near, 0]).statistic > 0.3
    assert ks_2samp(found.fractions[far, 0], seen[near, 0]).statistic < 0.03
    error = np.abs(found.fractions - truth)[:, 0]
    assert error[far].mean() < 0.3 * np.abs(seen - truth)[far, 0].mean()
    np.testing.assert_allclose(found.fractions.sum(axis=1), 1)
    assert found.before[0, 11].min() > 0.3
    assert found.after[0, 1:].max() < 0.05
    np.testing.assert_array_equal(found.before[0, 0], 0)
    assert np.all(np.diff(found.redshift[0]) > 0)
    np.testing.assert_array_equal(found.subjects[0], 500)


def test_the_nearest_bin_is_left_alone_and_order_within_a_bin_is_kept() -> None:
    _, seen, redshift = _planted(2000)
    found = debias(seen, redshift, bins=8)
    np.testing.assert_array_equal(found.fractions[found.bin == 0], seen[found.bin == 0])
    for step in range(8):
        rows = np.flatnonzero(found.bin == step)
        rows = rows[np.argsort(seen[rows, 0])]
        assert np.all(np.diff(found.fractions[rows, 0]) >= -1e-12)


def test_without_bias_little_moves() -> None:
    truth, _, redshift = _planted()
    found = debias(truth, redshift, bins=5)
    assert np.abs(found.fractions - truth).mean() < 0.02


def test_each_luminosity_and_size_is_its_own_reference() -> None:
    # Featured galaxies are the luminous ones, and those are seen further: the mix changes with redshift, no bias.
    rng = np.random.default_rng(4)
    redshift = rng.uniform(0.02, 0.25, 8000)
    luminous = rng.random(8000) < 0.1 + 0.8 * (redshift > 0.13)
    magnitude = np.where(luminous, -22.0, -19.0) + rng.normal(0, 0.1, 8000)
    size = rng.normal(0, 1, 8000)
    featured = np.where(luminous, rng.beta(8, 2, 8000), rng.beta(2, 8, 8000))
    fractions = np.stack([featured, 1 - featured], 1)
    far = redshift > 0.2
    blind = debias(fractions, redshift, bins=6)
    aware = debias(fractions, redshift, (magnitude, size), bins=6, splits=2)
    moved = [np.abs(found.fractions - fractions)[far, 0].mean() for found in (blind, aware)]
    assert moved[1] < 0.3 * moved[0]
    assert aware.subjects.shape == (4, 6)
    assert aware.subjects.sum() == 8000


def test_who_was_not_asked_stays_unknown_and_counts_for_nothing() -> None:
    _, seen, redshift = _planted(1000)
    expected = debias(seen, redshift, bins=4)
    extended = np.concatenate([seen, np.full((50, 2), np.nan), seen[:2]])
    far = np.concatenate([redshift, np.linspace(0.02, 0.25, 50), [np.nan, np.nan]])
    found = debias(extended, far, bins=4)
    np.testing.assert_array_equal(found.fractions[:1000], expected.fractions)
    assert np.isnan(found.fractions[1000:]).all()
    assert set(found.cell[1000:]) == set(found.bin[1000:]) == {-1}


def test_the_untrusted_are_corrected_but_set_no_distribution() -> None:
    _, seen, redshift = _planted(3000)
    trusted = np.arange(3000) % 3 > 0
    odd = seen.copy()
    odd[~trusted] = 0.5
    one, other = (debias(fractions, redshift, bins=5, trusted=trusted) for fractions in (seen, odd))
    np.testing.assert_array_equal(one.fractions[trusted], other.fractions[trusted])
    moved = other.fractions[~trusted & (other.bin == 4), 0]
    assert np.all(moved > 0.6)
    assert len(np.unique(moved)) == 1


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(2, 40))
def test_match_never_decreases_stays_a_fraction_and_keeps_zero(seed: int, own: int, near: int) -> None:
    rng = np.random.default_rng(seed)
    some, other = rng.binomial(8, rng.random(own)) / 8, rng.binomial(8, rng.random(near)) / 8
    grid = np.linspace(0, 1, 41)
    matched = match(grid, some, other)
    assert matched[0] == 0
    assert np.all(np.diff(matched) >= 0)
    assert np.all((matched >= 0) & (matched <= 1))
    np.testing.assert_allclose(match(some, some, some), some, rtol=1e-12)


def test_match_is_the_quantile_function_of_one_at_the_distribution_of_the_other() -> None:
    own, near = np.array([0.1, 0.2, 0.4, 0.8]), np.array([0.2, 0.3, 0.5, 0.9])
    np.testing.assert_allclose(match(own, own, near), near)
    # Half-way in the logarithm of the one is half-way in the logarithm of the other.
    np.testing.assert_allclose(match(np.sqrt([0.1 * 0.2]), own, near), np.sqrt([0.2 * 0.3]))
    np.testing.assert_allclose(match(np.array([0.05, 1.0]), own, near), [0.2, 0.9])


def test_three_answers_sum_to_one_and_fade_no_more() -> None:
    rng = np.random.default_rng(6)
    redshift = rng.uniform(0, 0.2, 5000)
    truth = rng.dirichlet([2, 1, 1], 5000)
    seen = truth * np.stack([np.ones(5000), np.exp(-6 * redshift), np.exp(-9 * redshift)], axis=1)
    seen /= seen.sum(axis=1, keepdims=True)
    found = debias(seen, redshift, bins=10)
    np.testing.assert_allclose(found.fractions.sum(axis=1), 1)
    assert found.before[0, 9].min() > 0.2
    assert found.after[0, 9].max() < 0.1


def test_too_few_subjects_or_one_redshift_leave_fractions_alone() -> None:
    _, seen, redshift = _planted(80)
    np.testing.assert_array_equal(debias(seen, redshift).fractions, seen)
    same = debias(seen, np.full(80, 0.1), bins=4, smallest=5)
    np.testing.assert_array_equal(same.fractions, seen)
    empty = debias(np.zeros((0, 2)), np.zeros(0))
    assert empty.fractions.shape == (0, 2)
    nobody = debias(np.full((3, 2), np.nan), np.full(3, 0.1))
    assert np.isnan(nobody.fractions).all()


def test_votes_are_debiased_question_by_question() -> None:
    tree = galaxy_tree()
    rng = np.random.default_rng(8)
    redshift = rng.uniform(0, 0.2, 3000)
    votes = Votes.empty(tree, [f"s{i}" for i in range(3000)])
    share = rng.beta(2, 2, 3000) * np.exp(-4 * redshift)
    votes.reached["rare"][:] = 40
    votes.counts["rare"][:] = rng.binomial(40, np.stack([share, share], axis=1))
    found = debias_votes(votes, redshift, bins=6)
    assert np.isnan(found["smooth"].fractions).all()
    rare = found["rare"]
    assert rare.after[0, 5].max() < 0.5 * rare.before[0, 5].min()
    # Answers of a multiple question are independent: their sum is free.
    assert rare.fractions.sum(axis=1).max() > 1.2
    unseen = votes.counts["rare"] == 0
    assert np.all(rare.fractions[unseen] == 0)


def test_few_votes_set_no_distribution() -> None:
    rng = np.random.default_rng(2)
    votes = Votes.empty(one_question(2), [f"s{i}" for i in range(400)])
    yes = rng.binomial(10, 0.5, 400)
    votes.counts["q"][:] = np.stack([yes, 10 - yes], axis=1)
    votes.reached["q"][:] = 10
    redshift = np.linspace(0, 0.1, 400)
    expected = debias_votes(votes, redshift, bins=2)["q"].fractions
    votes.counts["q"][::4] = [1, 0]
    votes.reached["q"][::4] = 1
    rows = np.arange(400) % 4 > 0
    alone = debias_votes(votes.select(rows), redshift[rows], bins=2)["q"].fractions
    np.testing.assert_array_equal(debias_votes(votes, redshift, bins=2)["q"].fractions[rows], alone)
    assert expected.shape == (400, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"redshift": np.array([0.1, -0.2, 0.1])}, "redshift, row 2: -0.2 is negative"),
        ({"fractions": np.array([[0.5, 0.5], [0.5, 0.5], [1.5, -0.5]])}, "fractions, row 3"),
        ({"redshift": np.zeros(2)}, "give one per subject"),
        ({"properties": (np.zeros(3), np.zeros(4))}, "property 2"),
        ({"trusted": np.ones(2, bool)}, "trusted has shape"),
        ({"bins": 0}, "bins 0"),
    ],
)
def test_bad_input_is_refused(change: dict[str, object], message: str) -> None:
    good = {"fractions": np.full((3, 2), 0.5), "redshift": np.full(3, 0.1)}
    with pytest.raises(GreenpeaError, match=message):
        debias(**{**good, **change})  # type: ignore[arg-type]
