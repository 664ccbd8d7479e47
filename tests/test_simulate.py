"""Simulation: a seed draws the same sky, truth is what can be seen, crowds converge to what is promised."""

from __future__ import annotations

import os

import numpy as np
import pytest
from astropy import units
from astropy.cosmology import FlatLambdaCDM
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import integrate, ndimage, stats

from greenpea import simulate
from greenpea.classifications import check, tally, votes_of
from greenpea.errors import GreenpeaError
from greenpea.simulate import (
    GLOSSARY,
    Galaxies,
    Volunteers,
    at_redshift,
    classify,
    crowd,
    expected_fractions,
    galaxies,
    light,
    observe,
    population,
    properties,
    telescope,
    volunteers,
)
from greenpea.tree import DecisionTree
from strategies import fractions, trees

TREE = DecisionTree.load("gz-decals-5")


@pytest.fixture(scope="module")
def sky() -> Galaxies:
    return galaxies(1500, seed=1)


def _chance(some: Galaxies, question: str, answer: str) -> np.ndarray:
    return some.truth[question][:, TREE[question].answer_slugs.index(answer)]


def _same(one: Galaxies, other: Galaxies) -> bool:
    return (
        np.array_equal(one.images, other.images)
        and list(one.subject_ids) == list(other.subject_ids)
        and all(np.array_equal(one.truth[slug], other.truth[slug]) for slug in TREE.slugs)
        and all(np.array_equal(one.properties[name], other.properties[name]) for name in one.properties)
    )


def _first(some: Galaxies, count: int) -> Galaxies:
    return Galaxies(
        some.subject_ids[:count],
        some.images[:count],
        {slug: array[:count] for slug, array in some.truth.items()},
        {name: array[:count] for name, array in some.properties.items()},
    )


# ---- seeds ------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_galaxies(sky: Galaxies) -> None:
    assert _same(galaxies(100, seed=1), _first(sky, 100))
    assert not np.array_equal(galaxies(20, seed=2).images, sky.images[:20])


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_a_galaxy_is_the_same_however_many_are_asked_for(sky: Galaxies, count: int) -> None:
    assert _same(galaxies(count, seed=1), _first(sky, count))


def test_one_thread_draws_what_several_draw(sky: Galaxies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert _same(galaxies(130, seed=1), _first(sky, 130))


def test_observing_the_properties_of_a_seed_is_simulating_it(sky: Galaxies) -> None:
    seen = observe(properties(70, seed=1), seed=1)
    difference = np.abs(seen.images.astype(int) - sky.images[:70])
    assert difference.max() <= 1  # a short block is filled up, which may move the last bit


def test_another_size_shows_the_same_galaxies(sky: Galaxies) -> None:
    large = galaxies(64, seed=1, size=80)
    assert large.images.shape == (64, 80, 80, 3)
    assert all(np.array_equal(large.properties[name], sky.properties[name][:64]) for name in GLOSSARY)
    for slug in TREE.slugs:
        assert np.abs(large.truth[slug] - sky.truth[slug][:64]).mean() < 0.03


# ---- the population and its truth --------------------------------------------------------------------------


def test_every_property_is_in_the_glossary(sky: Galaxies) -> None:
    drawn = {name for name in sky.properties if not name.endswith("_seen")}
    assert drawn == set(GLOSSARY)
    assert all(np.all(np.isfinite(values)) for values in sky.properties.values())


def test_truth_is_a_probability_for_every_question(sky: Galaxies) -> None:
    for question in TREE.questions:
        shares = sky.truth[question.slug]
        assert shares.shape == (len(sky), len(question.answers))
        assert shares.min() >= 0
        assert shares.max() <= 1
        if question.kind == "single":
            np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-12)


def test_every_answer_is_right_for_somebody_and_the_mix_is_that_of_a_survey(sky: Galaxies) -> None:
    reach = TREE.reach(sky.truth)
    for question in TREE.questions:
        best = (sky.truth[question.slug] * (reach[question.slug] > 0.1)[:, None]).max(axis=0)
        # "Something else" is nobody's first answer; it stands for disturbances and artifacts.
        rightful = [answer != "something-else" for answer in question.answer_slugs]
        assert best[rightful].min() > 0.5, question.slug
    smooth, featured, artifact = sky.truth["smooth-or-featured"].mean(axis=0)
    assert 0.40 < smooth < 0.55
    assert 0.40 < featured < 0.55
    assert 0.03 < artifact < 0.06


def test_distances_are_those_of_the_stated_universe() -> None:
    z = np.array([0.012, 0.05, 0.1, 0.25])
    per_arcsec = FlatLambdaCDM(H0=67.7, Om0=0.31).kpc_proper_per_arcmin(z).to_value(units.kpc / units.arcsec)
    radius = population.half_light_radius_arcsec({"redshift": z, "half_light_radius_kpc": np.full(4, 5.0)})
    np.testing.assert_allclose(radius, 5.0 / per_arcsec, rtol=1e-3)


@pytest.mark.parametrize("index", [1.0, 2.5, 4.0])
def test_half_of_a_sersic_profile_lies_within_its_effective_radius(index: float) -> None:
    def ring(radius: float) -> float:
        return float(2 * np.pi * radius * light.sersic(np.array(radius), np.array(index)))

    total = float(light.sersic_flux(np.array(index)))
    assert integrate.quad(ring, 0, 1)[0] == pytest.approx(total / 2, rel=1e-3)


def test_far_galaxies_show_less(sky: Galaxies) -> None:
    p = sky.properties
    clear = (p["arms_seen"] > 0.9) & (p["artifact"] == 0) & (p["redshift"] < 0.08)
    near = {name: p[name][clear][:64] for name in GLOSSARY}
    shown = [observe(at_redshift(near, z), seed=1, size=48) for z in (0.04, 0.08, 0.14, 0.24)]
    arms = [some.properties["arms_seen"].mean() for some in shown]
    bars = [some.properties["bar_seen"].mean() for some in shown]
    smooth = [_chance(some, "smooth-or-featured", "smooth").mean() for some in shown]
    assert arms == sorted(arms, reverse=True)
    assert bars == sorted(bars, reverse=True)
    assert smooth == sorted(smooth)
    assert arms[0] - arms[-1] > 0.4
    assert smooth[-1] - smooth[0] > 0.2


def test_what_lies_in_the_plane_of_a_disk_is_hidden_edge_on(sky: Galaxies) -> None:
    edge_on = sky.properties["inclination_deg"] > population.EDGE_ON_DEG
    for name in ("arms_seen", "bar_seen", "ring_seen"):
        assert sky.properties[name][edge_on].max() == 0
        assert sky.properties[name][~edge_on].max() > 0.9


# ---- pictures ---------------------------------------------------------------------------------------------


def test_no_picture_is_blank_and_most_show_sky_and_light(sky: Galaxies) -> None:
    assert sky.images.dtype == np.uint8
    grey = sky.images.mean(axis=3).reshape(len(sky), -1)
    assert grey.std(axis=1).min() > 1
    clean = grey[sky.properties["artifact"] == 0]
    assert np.median(np.percentile(clean, 20, axis=1)) == pytest.approx(17, abs=5)  # sky, as in published JPEGs
    assert np.median(clean.max(axis=1)) > 120


def _elongation(images: np.ndarray) -> np.ndarray:
    """Axis ratio of the second moments of the light within half the picture."""
    grey = images.mean(axis=3)
    sky = np.median(grey[:, :6], axis=(1, 2))[:, None, None]
    line = np.arange(images.shape[1]) - (images.shape[1] - 1) / 2
    x, y = line[None, None, :], line[None, :, None]
    weight = np.maximum(grey - sky - 15, 0) * (x**2 + y**2 < (0.3 * images.shape[1]) ** 2)
    xx, yy, xy = (np.sum(weight * moment, axis=(1, 2)) for moment in (x * x, y * y, x * y))
    spread = np.sqrt((xx - yy) ** 2 + 4 * xy**2)
    return np.sqrt((xx + yy - spread) / np.maximum(xx + yy + spread, 1e-9))


def _ranking(score: np.ndarray, high: np.ndarray, low: np.ndarray) -> float:
    """P(a high one scores above a low one)."""
    return float(stats.mannwhitneyu(score[high], score[low]).statistic / (high.sum() * low.sum()))


def test_the_pictures_carry_the_shape(sky: Galaxies) -> None:
    alone = (sky.properties["artifact"] == 0) & (sky.properties["companion_flux"] == 0)
    round_ = alone & (_chance(sky, "how-rounded", "round") > 0.8)
    cigar = alone & (_chance(sky, "how-rounded", "cigar-shaped") > 0.8)
    assert min(round_.sum(), cigar.sum()) > 50
    assert _ranking(_elongation(sky.images), round_, cigar) > 0.97


def test_the_pictures_carry_the_arms(sky: Galaxies) -> None:
    alone = (sky.properties["artifact"] == 0) & (sky.properties["companion_flux"] == 0)
    armed = alone & (sky.properties["arms_seen"] > 0.9) & (sky.properties["inclination_deg"] < 50)
    plain = alone & (sky.properties["kind"] == 0) & (_chance(sky, "how-rounded", "round") > 0.5)
    assert min(armed.sum(), plain.sum()) > 30
    # Structure between one and two pixels, around but outside the centre, over the light there.
    line = np.arange(64) - 31.5
    around = (np.hypot(line[None, :], line[:, None]) > 5) & (np.hypot(line[None, :], line[:, None]) < 18)
    grey = sky.images.mean(axis=3)
    structure = ndimage.gaussian_filter(grey, (0, 1, 1)) - ndimage.gaussian_filter(grey, (0, 2, 2))
    roughness = structure[:, around].std(axis=1) / grey[:, around].mean(axis=1)
    assert _ranking(roughness, armed, plain) > 0.9


def test_the_pictures_carry_the_colours(sky: Galaxies) -> None:
    clean = sky.properties["artifact"] == 0
    middle = sky.images[:, 24:40, 24:40].astype(float).mean(axis=(1, 2))
    redness = middle[:, 0] / middle[:, 2]
    elliptical, irregular = clean & (sky.properties["kind"] == 0), clean & (sky.properties["kind"] == 3)
    assert _ranking(redness, elliptical, irregular) > 0.95


def test_seeing_keeps_the_light_and_widens_it() -> None:
    p = {"seeing_arcsec": np.array([2.3548]), "field_of_view_arcsec": np.array([32.0])}
    point = np.zeros((1, 64, 64), np.float32)
    point[0, 32, 32] = 1
    layers = {"star": light.Layer(np.array([0]), point, np.ones((1, 3), np.float32))}
    seen = telescope.blur(layers, p, 64)["star"].light[0]
    assert seen.sum() == pytest.approx(1, abs=1e-4)
    variance = (seen.sum(axis=0) * (np.arange(64) - 32) ** 2).sum()
    assert variance == pytest.approx(2.0**2 + 1 / 12, rel=1e-3)  # σ = 1 arcsec is two pixels; and the pixel


def test_the_stretch_keeps_the_order_of_light() -> None:
    steps = np.geomspace(1e-3, 1e3, 64, dtype=np.float32)
    scene = np.broadcast_to(steps, (3, 1, 64, 64)).copy()
    grey = telescope.stretch(scene)[0, 0].astype(int)
    assert np.all(np.diff(grey, axis=0) >= 0)
    assert grey[0].max() < 40
    assert grey[-1].min() == 255


def test_more_than_can_be_simulated_is_refused() -> None:
    with pytest.raises(GreenpeaError, match="at least one"):
        galaxies(0, seed=1)
    with pytest.raises(GreenpeaError, match="between 16 and 1024"):
        galaxies(1, seed=1, size=8)


# ---- volunteers -------------------------------------------------------------------------------------------


def _crowd(skill: float, count: int = 60) -> Volunteers:
    return Volunteers(skill=np.full(count, skill), spread=np.ones(count), seed=4)


def test_a_crowd_is_skilled_but_for_a_few() -> None:
    many = volunteers(5000, seed=3)
    careless = many.skill < 0.1
    assert careless.mean() == pytest.approx(crowd.CARELESS, abs=0.01)
    assert many.skill[~careless].mean() == pytest.approx(7 / 9, abs=0.01)
    assert np.array_equal(many.skill, volunteers(5000, seed=3).skill)
    with pytest.raises(GreenpeaError, match="at least one"):
        volunteers(0, seed=3)


def test_every_row_of_a_confusion_is_a_distribution() -> None:
    some = volunteers(40, seed=3)
    for question in TREE.questions:
        confusion = some.confusion(question)
        assert confusion.min() >= 0
        assert confusion.max() <= 1
        if question.kind == "single":
            np.testing.assert_allclose(confusion.sum(axis=2), 1)
            right = np.diagonal(confusion, axis1=1, axis2=2)
            assert np.all(right >= some.skill[:, None])


@given(trees(), st.integers(0, 12), st.integers(0, 99))
@hypothesis_settings(max_examples=60)
def test_children_are_asked_of_those_whose_answer_leads_there(tree: DecisionTree, most: int, seed: int) -> None:
    truth = fractions(tree, seed, (5,))
    asked = np.random.default_rng(seed).integers(0, most + 1, 5)
    votes = classify(truth, tree, asked, volunteers(12, seed), seed)
    assert np.array_equal(votes.reached[tree.first], asked)
    for question in tree.questions:
        slug = question.slug
        if question.kind == "single":
            assert np.array_equal(votes.counts[slug].sum(axis=1), votes.reached[slug])
        assert np.all(votes.counts[slug] <= votes.reached[slug][:, None])
        came = np.zeros(5, np.int64)
        for way in tree.parents[slug]:
            index = way.answer and tree[way.question].answer_slugs.index(way.answer)
            came += votes.reached[way.question] if index is None else votes.counts[way.question][:, index]
        if slug != tree.first:
            assert np.array_equal(came, votes.reached[slug])


def test_nobody_classifies_a_subject_twice_and_everybody_is_as_likely() -> None:
    asked = np.array([0, 3, 20] * 400)
    subject, volunteer = crowd._assign(asked, 20, np.random.default_rng(8))
    assert np.array_equal(np.bincount(subject, minlength=1200), asked)
    assert len(set(zip(subject.tolist(), volunteer.tolist(), strict=True))) == len(subject)
    threes = volunteer[np.isin(subject, np.flatnonzero(asked == 3))]
    assert stats.chisquare(np.bincount(threes, minlength=20)).pvalue > 1e-4


def test_the_same_seed_gives_the_same_votes(sky: Galaxies) -> None:
    some = volunteers(100, seed=5)
    votes = classify(sky.truth, TREE, 10, some, seed=6)
    assert votes == classify(sky.truth, TREE, 10, some, seed=6)
    assert votes != classify(sky.truth, TREE, 10, some, seed=7)
    assert votes.subject_ids[0] == sky.subject_ids[0] == "sim-000001"
    assert votes.excesses() == []


def test_an_infinite_crowd_of_perfect_volunteers_says_the_truth() -> None:
    truth = galaxies(40, seed=9, size=16).truth
    expected = expected_fractions(truth, TREE, _crowd(1.0))
    for slug in TREE.slugs:
        np.testing.assert_allclose(expected[slug], truth[slug], atol=1e-12)


def test_vote_fractions_converge_to_the_expected_ones() -> None:
    truth = galaxies(150, seed=9, size=16).truth
    some = volunteers(400, seed=10)
    expected = expected_fractions(truth, TREE, some)
    rounds = [classify(truth, TREE, 100, some, seed) for seed in range(20)]
    for slug in TREE.slugs:
        counts = sum(votes.counts[slug] for votes in rounds)
        reached = sum(votes.reached[slug] for votes in rounds)[:, None]
        assert reached.min() > 0
        variance = expected[slug] * (1 - expected[slug]) / reached
        deviation = (counts / reached - expected[slug]) / np.sqrt(variance)
        assert np.mean(deviation**2) == pytest.approx(1, abs=0.3), slug
        assert np.abs(deviation).max() < 5, slug


def test_expected_fractions_weigh_volunteers_by_their_reach() -> None:
    two = DecisionTree.from_json(
        """{"name": "two", "questions": [
          {"slug": "disk", "answers": [{"slug": "yes", "next": "bar"}, {"slug": "no"}]},
          {"slug": "bar", "answers": [{"slug": "yes"}, {"slug": "no"}]}]}"""
    )
    truth = {"disk": np.array([[0.3, 0.7]]), "bar": np.array([[0.6, 0.4]])}
    some = volunteers(7, seed=11)
    disk, bar = (truth[slug] @ some.confusion(two[slug]) for slug in ("disk", "bar"))
    by_hand = sum(disk[v, 0, 0] * bar[v, 0] for v in range(7)) / disk[:, 0, 0].sum()
    np.testing.assert_allclose(expected_fractions(truth, two, some)["bar"][0], by_hand)


def test_skilled_volunteers_come_closer_to_the_truth_than_careless_ones(sky: Galaxies) -> None:
    truth = {slug: array[:300] for slug, array in sky.truth.items()}

    def error(skill: float) -> float:
        votes = classify(truth, TREE, 40, _crowd(skill), seed=12)
        return float(np.abs(votes.fractions(TREE.first) - truth[TREE.first]).mean())

    errors = [error(skill) for skill in (1.0, 0.7, 0.05)]
    assert errors == sorted(errors)
    assert errors[-1] > 3 * errors[0]


def test_truth_that_does_not_fit_the_tree_is_refused() -> None:
    two = DecisionTree.load("binary")
    slug = two.first
    good = fractions(two, seed=1, batch=(3,))
    some = volunteers(5, seed=1)
    assert len(classify(good, two, 5, some, seed=1)) == 3
    for broken, words in (
        ({}, "lacks the question"),
        (good | {slug: good[slug][:, :1]}, "expected"),
        (good | {slug: good[slug] * 0.5}, "does not sum to 1"),
        (good | {slug: good[slug] * -1}, "not between 0 and 1"),
    ):
        with pytest.raises(GreenpeaError, match=words):
            classify(broken, two, 5, some, seed=1)
    with pytest.raises(GreenpeaError, match="nobody classifies a subject twice"):
        classify(good, two, 6, some, seed=1)


def test_annotations_are_whole_walks_and_count_up_to_what_the_crowd_thinks() -> None:
    tree, rng = DecisionTree.load("gz-decals-5"), np.random.default_rng(0)
    truth = {
        q.slug: rng.beta(1, 3, (2, len(q.answers)))
        if q.kind == "multiple"
        else rng.dirichlet(np.ones(len(q.answers)), 2)
        for q in tree.questions
    }
    crowd = simulate.volunteers(40, 1)
    subject, volunteer = np.repeat([0, 1], 4000), np.tile(np.arange(40), 200)
    walks = simulate.annotate(truth, tree, crowd.confusions(tree), subject, volunteer, rng)
    for walk in walks[::97]:
        check(tree, walk)
    counted = votes_of({"a": tally(walks[:4000]), "b": tally(walks[4000:])}, tree)
    expected = simulate.expected_fractions(truth, tree, crowd)
    for question in tree.questions:
        reached = counted.reached[question.slug]
        error = np.sqrt(0.25 / np.maximum(reached, 1))[:, None]
        assert np.all(np.abs(counted.fractions(question.slug) - expected[question.slug]) < 4.5 * error)
