"""Combining volunteers: against closed forms, enumeration, crowd-kit, planted crowds and real votes."""

from __future__ import annotations

import itertools
import re
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenpea.classifications import Classification, count, walk
from greenpea.errors import GreenpeaError
from greenpea.tables import column_as_strings, read_table
from greenpea.tree import DecisionTree
from greenpea.volunteers import Consensus, Replies, consistency, counts, dawid_skene, effective, replies, swap
from greenpea.volunteers.swap import Settings
from hands import galaxy_tree, one_question

START = datetime(2024, 1, 1, tzinfo=UTC)


def _replies(rows: list[tuple[int, int, int]], answers: int = 2) -> Replies:
    """Replies from (subject, volunteer, answer), as many of each as the rows name."""
    table = np.array(rows, np.int64).reshape(-1, 3)
    subjects, volunteers = (
        np.array([f"{letter}{i}" for i in range(table[:, column].max(initial=-1) + 1)], dtype=object)
        for column, letter in ((0, "s"), (1, "v"))
    )
    return Replies(*table.T, subjects, volunteers, tuple(f"a{i}" for i in range(answers)))


def _random(seed: int, subjects: int = 8, volunteers: int = 5, answers: int = 3, count: int = 40) -> Replies:
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.integers(0, n, count) for n in (subjects, volunteers, answers)], axis=1)
    corner = [(subjects - 1, volunteers - 1, 0)]  # so that there are as many of each as asked for
    return _replies([*map(tuple, rows.tolist()), *corner], answers)


def _crowd(
    confusion: np.ndarray, truth: np.ndarray, per_subject: int, rng: np.random.Generator
) -> tuple[Replies, np.ndarray]:
    """Replies of volunteers with known confusion matrices about subjects of known truth, and that truth."""
    people, answers = confusion.shape[:2]
    who = np.array([rng.permutation(people)[:per_subject] for _ in truth])
    rows = [
        (subject, volunteer, rng.choice(answers, p=confusion[volunteer, truth[subject]]))
        for subject, volunteer in ((s, v) for s in range(len(truth)) for v in who[s])
    ]
    return _replies([(int(s), int(v), int(a)) for s, v, a in rows], answers), truth


def _classifications(tree: DecisionTree, seed: int, most: int = 30) -> list[Classification]:
    """Random walks through a tree, finished in no particular order."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(rng.integers(1, most)):
        annotations: dict[str, list[str]] = {}
        while slug := walk(tree, annotations)[1] if annotations else tree.first:
            question = tree[slug]
            if question.kind == "multiple":
                annotations[slug] = [answer for answer in question.answer_slugs if rng.random() < 0.5]
            else:
                annotations[slug] = [str(rng.choice(question.answer_slugs))]
        found.append(
            Classification(
                f"c{number}",
                f"s{rng.integers(6)}",
                f"v{rng.integers(4)}",
                annotations,
                finished_at=START + timedelta(minutes=int(rng.integers(1000))),
            )
        )
    return found


def _methods(some: Replies) -> list[Consensus]:
    found = [counts.combine(some), consistency.combine(some), dawid_skene.combine(some)]
    found.append(dawid_skene.combine(some, smoothing=0.0))
    if len(some.answers) == 2:
        settings = Settings(start=(0.7, 0.7), unsupervised=True, accept=0.95, reject=0.05)
        found.append(swap.combine(some, {}, settings, trajectories=True))
    return found


# ---- replies -----------------------------------------------------------------------------------------


@given(st.integers(0, 10_000))
def test_replies_add_up_to_the_votes(seed: int) -> None:
    tree = galaxy_tree()
    some = _classifications(tree, seed)
    votes, found = count(some, tree), replies(some, tree)
    for question in tree.questions:
        if question.kind == "single":
            np.testing.assert_array_equal(found[question.slug].counts(), votes.counts[question.slug])
        for column, answer in enumerate(question.answer_slugs if question.kind == "multiple" else ()):
            table = found[f"{question.slug}/{answer}"].counts()
            np.testing.assert_array_equal(table[:, 1], votes.counts[question.slug][:, column])
            np.testing.assert_array_equal(table.sum(axis=1), votes.reached[question.slug])


def test_replies_stand_in_order_of_time() -> None:
    tree = one_question(2)
    some = [
        Classification("late", "s", "v", {"q": ["a0"]}, finished_at=START + timedelta(days=1)),
        Classification("early", "t", "w", {"q": ["a1"]}, finished_at=START.replace(tzinfo=None)),
        Classification("unknown", "t", "v", {"q": ["a0"]}),
    ]
    found = replies(some, tree)["q"]
    assert list(found.volunteer_ids[found.volunteer]) == ["v", "w", "v"]
    assert list(found.subject_ids[found.subject]) == ["t", "t", "s"]
    assert list(found.answer) == [0, 1, 0]


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ({"q": ["a3"]}, r"'two' \(row 2\): question 'q' has no answer 'a3'"),
        ({"p": ["a0"]}, r"'two' \(row 2\): tree 'one' has no question 'p'"),
        ({"q": ["a0", "a1"]}, r"'two' \(row 2\): question 'q' takes exactly one answer, not 2"),
    ],
)
def test_a_bad_annotation_is_named_with_its_row(annotations: dict[str, list[str]], message: str) -> None:
    some = [Classification("one", "s", "v", {"q": ["a0"]}), Classification("two", "s", "w", annotations)]
    with pytest.raises(GreenpeaError, match=message):
        replies(some, one_question(2))


def test_a_table_becomes_replies_in_order_of_time_and_blank_answers_are_left_out() -> None:
    table = pa.table(
        {
            "s": ["x", "x", "y"],
            "v": ["b", "a", "a"],
            "said": ["yes", None, "no"],
            "when": ["2024-01-02 10:00:00 UTC", "2024-01-01 09:00:00 UTC", "2024-01-01T12:00:00+01:00"],
        }
    )
    found = Replies.from_table(table, ("no", "yes"), ("s", "v", "said"), "when")
    assert [
        (found.subject_ids[s], found.volunteer_ids[v]) for s, v in zip(found.subject, found.volunteer, strict=True)
    ] == [
        ("y", "a"),
        ("x", "b"),
    ]
    three = Replies.from_table(table, ("no", "yes", ""), ("s", "v", "said"))
    np.testing.assert_array_equal(three.counts(), [[0, 1, 1], [1, 0, 0]])


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"said": ["yes", "maybe"]}, "the table, row 3, column 'said': 'maybe' is not among the answers 'no', 'yes'"),
        ({"v": ["a", ""]}, "row 3, column 'v' is blank"),
        ({"when": ["2024-01-01", "noon"]}, "row 3, column 'when': 'noon' is not a time"),
        ({"when": [1.0, None]}, "row 3, column 'when': the time is blank"),
    ],
)
def test_a_bad_cell_is_named_with_its_row_and_column(cells: dict[str, list[object]], message: str) -> None:
    good = {"s": ["x", "y"], "v": ["a", "b"], "said": ["yes", "no"], "when": ["2024-01-01", "2024-01-02"]}
    with pytest.raises(GreenpeaError, match=message):
        Replies.from_table(pa.table({**good, **cells}), ("no", "yes"), ("s", "v", "said"), "when")


def test_bad_arrays_are_refused_with_the_row() -> None:
    ids = np.array(["x"], dtype=object)
    zero = np.zeros(2, np.int64)
    with pytest.raises(GreenpeaError, match="row 2: answer 2 does not exist, there are 2"):
        Replies(zero, zero, np.array([0, 2]), ids, ids, ("no", "yes"))
    with pytest.raises(GreenpeaError, match="the subject as float64"):
        Replies(zero.astype(float), zero, zero, ids, ids, ("no", "yes"))
    with pytest.raises(GreenpeaError, match="name 2 subjects, 2 volunteers and 1 answers"):
        Replies(zero, zero, zero[:1], ids, ids, ("no", "yes"))
    with pytest.raises(GreenpeaError, match="row 2: 'perhaps' is not an answer"):
        Replies.of(["x", "x"], ["v", "w"], ["no", "perhaps"], ("no", "yes"))
    with pytest.raises(GreenpeaError, match="row 1: the time is missing"):
        Replies.of(["x"], ["v"], ["no"], ("no", "yes"), np.array(["NaT"], "datetime64[s]"))


def test_only_the_first_reply_of_a_volunteer_about_a_subject_is_kept() -> None:
    some = _replies([(0, 0, 1), (1, 0, 0), (0, 0, 0), (0, 1, 0), (1, 0, 1)])
    first = some.first()
    assert list(zip(first.subject, first.volunteer, first.answer, strict=True)) == [(0, 0, 1), (1, 0, 0), (0, 1, 0)]


# ---- every method ------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(0, 30))
def test_every_method_returns_probabilities_and_weights_and_never_nan(seed: int, answers: int, size: int) -> None:
    some = _random(seed, subjects=6, volunteers=4, answers=answers, count=size)
    for found in _methods(some):
        np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
        assert np.all((found.weights >= 0) & (found.weights <= 1))
        assert np.isfinite(found.skills).all()
        assert set(found.best) <= set(some.answers)
        if found.confusion is not None:
            np.testing.assert_allclose(found.confusion.sum(axis=2), 1)


@pytest.mark.parametrize(
    "some",
    [
        _replies([(0, 0, 1)]),
        _replies([(s, 0, 1) for s in range(5)]),  # one volunteer, all replies equal
        _replies([(s, v, 0) for s in range(4) for v in range(3)]),
        _replies([(0, 0, 1), (2, 2, 1), (2, 0, 0)]),  # a subject and a volunteer without a reply
        Replies(*(np.zeros(0, np.int64),) * 3, np.array(["s"], object), np.array(["v"], object), ("no", "yes")),
        Replies(*(np.zeros(0, np.int64),) * 3, *(np.zeros(0, object),) * 2, ("no", "yes")),
    ],
    ids=["one reply", "one volunteer", "all equal", "gaps", "no replies", "nothing"],
)
def test_edges(some: Replies) -> None:
    for found in _methods(some):
        assert found.probabilities.shape == (len(some.subject_ids), 2)
        for array in (found.probabilities, found.weights, found.skills, found.objective, found.trajectory):
            assert array is None or np.isfinite(array).all()


def test_unanimity_is_agreed_with_and_silence_is_even() -> None:
    some = _replies([(s, v, int(s == 2)) for s in (0, 2) for v in range(6)])
    for found in _methods(some):
        assert list(found.best[[0, 2]]) == ["a0", "a1"]
        np.testing.assert_allclose(found.probabilities[1], 0.5)


# ---- counts and consistency --------------------------------------------------------------------------


def test_counts_are_fractions() -> None:
    found = counts.combine(_replies([(0, 0, 1), (0, 1, 1), (0, 2, 0), (1, 0, 0)]))
    np.testing.assert_allclose(found.probabilities, [[1 / 3, 2 / 3], [1, 0]])
    assert found.weight_of == {"v0": 1.0, "v1": 1.0, "v2": 1.0}


def test_consistency_of_one_annotation_is_as_willett_defines_it() -> None:
    # Fractions 0.7, 0.25, 0.05: agreement (0.7 + 0.75 + 0.95) / 3, and so on.
    expected = {0: (0.7 + 0.75 + 0.95) / 3, 1: (0.3 + 0.25 + 0.95) / 3, 2: (0.3 + 0.75 + 0.05) / 3}
    for answer, kappa in expected.items():
        found = consistency.consistency({"q": _replies([(0, 0, answer)], 3)}, {"q": np.array([[0.7, 0.25, 0.05]])})
        assert found[0] == pytest.approx(kappa)


def test_consistency_weighting_by_hand() -> None:
    # Nine say yes about ten subjects, a tenth says no: κ is 0.9 and 0.1, then 9 / (9 + w) and w / (9 + w).
    some = _replies([(s, v, int(v < 9)) for s in range(10) for v in range(10)])
    weight = 1.0
    for _ in range(3):
        kappa = weight / (9 + weight)
        weight = (kappa / 0.6) ** 8.5
    found = consistency.combine(some)
    np.testing.assert_allclose(found.skills, [*[1 - kappa] * 9, kappa])
    np.testing.assert_allclose(found.weights, [*[1.0] * 9, weight])
    np.testing.assert_allclose(found.probabilities[:, 1], 9 / (9 + weight))
    assert found.iterations == 3
    assert consistency.combine(some, iterations=9).converged


def test_consistency_is_taken_over_the_whole_tree() -> None:
    tree = galaxy_tree()
    contrary = [
        Classification(
            f"{subject}-{volunteer}",
            f"s{subject}",
            f"v{volunteer}",
            {"smooth": ["yes"], "merging": ["no"], "rare": ["ring"]}
            if volunteer
            else {"smooth": ["yes"], "merging": ["yes"], "rare": ["lens"]},
        )
        for subject in range(3)
        for volunteer in range(5)
    ]
    found = consistency.combine_all(replies(contrary, tree), iterations=1)
    # smooth 1, merging 0.2; rare, one annotation of two replies, (0.2 + 0.2) / 2; of the others 1, 0.8, 0.8.
    smooth, merging = (3 - 2 + 2 * 1) / 3, 0.2
    np.testing.assert_allclose(found["merging"].skills[:1], (smooth + merging + 0.2) / 3)
    np.testing.assert_allclose(found["merging"].skills[1:], (smooth + 0.8 + 0.8) / 3)
    assert found["rare/ring"].weights[0] == pytest.approx(((smooth + 0.4) / 3 / 0.6) ** 8.5)
    with pytest.raises(GreenpeaError, match="same volunteers"):
        consistency.combine_all({"a": _random(1), "b": _random(1, volunteers=7)})


@pytest.mark.parametrize("answers", [2, 4])
def test_consistency_finds_those_who_answer_at_random(answers: int) -> None:
    rng = np.random.default_rng(3)
    confusion = np.tile(np.eye(answers) * 0.8 + 0.2 / answers, (40, 1, 1))
    confusion[:4] = 1 / answers
    some, truth = _crowd(confusion, rng.integers(0, answers, 1000), 12, rng)
    found = consistency.combine(some)
    assert found.skills[:4].max() < found.skills[4:].min()
    assert (found.probabilities.argmax(axis=1) == truth).mean() > 0.99
    np.testing.assert_array_equal(found.weights[4:], 1)
    if answers == 2:
        assert found.weights[:4].max() < 0.8
    else:  # κ ≥ (R − 2) / R: among many answers nobody disagrees enough
        assert found.weights[:4].min() > 0.9


# ---- Dawid–Skene -------------------------------------------------------------------------------------


def test_the_likelihood_is_the_sum_over_every_truth() -> None:
    some = _random(0, subjects=4, volunteers=3, answers=2, count=14)
    found = dawid_skene.combine(some, smoothing=0.5, iterations=2, tolerance=-np.inf)
    one_more = dawid_skene.combine(some, smoothing=0.5, iterations=3, tolerance=-np.inf)
    assert one_more.confusion is not None
    assert one_more.prevalence is not None
    np.testing.assert_allclose(one_more.prevalence, found.probabilities.mean(axis=0))
    total, marginal = 0.0, np.zeros((4, 2))
    for truth in itertools.product(range(2), repeat=4):
        probability = np.prod(one_more.prevalence[list(truth)])
        for subject, volunteer, answer in zip(some.subject, some.volunteer, some.answer, strict=True):
            probability *= one_more.confusion[volunteer, truth[subject], answer]
        total += probability
        marginal[range(4), truth] += probability
    assert one_more.log_likelihood == pytest.approx(np.log(total))
    np.testing.assert_allclose(one_more.probabilities, marginal / total)


def test_the_tables_are_the_expected_counts_with_the_smoothing() -> None:
    some = _random(5, answers=3)
    before = dawid_skene.combine(some, smoothing=0.3, accuracy=0.6, iterations=1)
    after = dawid_skene.combine(some, smoothing=0.3, accuracy=0.6, iterations=2, tolerance=-np.inf)
    table = np.tile(0.3 * 3 * (0.6 * np.eye(3) + 0.2 * (1 - np.eye(3))), (5, 1, 1))
    for subject, volunteer, answer in zip(some.subject, some.volunteer, some.answer, strict=True):
        table[volunteer, :, answer] += before.probabilities[subject]
    assert after.confusion is not None
    np.testing.assert_allclose(after.confusion, table / table.sum(axis=2, keepdims=True))


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 1.0]))
def test_the_objective_never_falls(seed: int, smoothing: float) -> None:
    found = dawid_skene.combine(_random(seed), smoothing=smoothing, iterations=30)
    assert found.objective is not None
    assert np.all(np.diff(found.objective) >= -1e-6)


def test_planted_confusion_is_recovered() -> None:
    rng = np.random.default_rng(1)
    diagonal = rng.uniform(0.5, 0.95, (25, 3))
    confusion = np.stack([np.diag(d) + (1 - d)[:, None] * (1 - np.eye(3)) / 2 for d in diagonal])
    confusion[0] = [[0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]  # mistakes two answers for one another
    some, truth = _crowd(confusion, rng.choice(3, 1500, p=[0.5, 0.3, 0.2]), 10, rng)
    found = dawid_skene.combine(some)
    assert found.converged
    assert found.confusion is not None
    assert np.abs(found.confusion - confusion).mean() < 0.025
    np.testing.assert_allclose(found.prevalence, np.bincount(truth) / len(truth), atol=0.015)
    right = (found.probabilities.argmax(axis=1) == truth).mean()
    assert right > (counts.combine(some).probabilities.argmax(axis=1) == truth).mean()
    # Sure of as many as are right: calibrated.
    assert found.probabilities.max(axis=1).mean() == pytest.approx(right, abs=0.01)


def test_a_single_reply_makes_nobody_infallible_when_smoothed() -> None:
    some = _replies([(0, v, 0) for v in range(5)] + [(1, v, 1) for v in range(5)] + [(0, 5, 0)])
    plain = dawid_skene.combine(some, smoothing=0.0).confusion
    even = dawid_skene.combine(some, accuracy=None).confusion
    hopeful = dawid_skene.combine(some, accuracy=0.75).confusion
    assert plain is not None
    assert even is not None
    assert hopeful is not None
    # One reply, about a subject that is surely "a0": (pseudo-count + 1) / (pseudo-counts + 1).
    np.testing.assert_allclose([one[5, 0, 0] for one in (plain, even, hopeful)], [1, 2 / 3, 2.5 / 3], atol=1e-2)
    np.testing.assert_allclose([one[5, 1, 1] for one in (even, hopeful)], [0.5, 0.75], atol=1e-2)


def test_an_expected_accuracy_serves_a_crowd_in_which_everybody_says_little() -> None:
    rng = np.random.default_rng(12)
    some, truth = _crowd(np.tile([[0.9, 0.1], [0.1, 0.9]], (400, 1, 1)), (rng.random(300) < 0.75).astype(int), 5, rng)
    right = [
        (dawid_skene.combine(some, accuracy=accuracy).probabilities.argmax(axis=1) == truth).mean()
        for accuracy in (None, 0.75)
    ]
    assert right[1] > right[0]
    assert right[1] > 0.97


def _crowd_kit(some: Replies, iterations: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        aggregation = pytest.importorskip("crowdkit.aggregation")
        pandas = pytest.importorskip("pandas")
        table = pandas.DataFrame(
            {
                "task": some.subject_ids[some.subject],
                "worker": some.volunteer_ids[some.volunteer],
                "label": np.array(some.answers, object)[some.answer],
            }
        )
        found = aggregation.DawidSkene(n_iter=iterations, tol=-np.inf).fit(table)
        return found.probas_.loc[list(some.subject_ids), list(some.answers)].to_numpy()


@pytest.mark.parametrize("iterations", [1, 4, 25])
def test_dawid_skene_is_crowd_kits(iterations: int) -> None:
    rng = np.random.default_rng(7)
    confusion = rng.dirichlet(np.ones(4), (15, 4)) * 0.5 + 0.5 * np.eye(4)
    some, _ = _crowd(confusion, rng.integers(0, 4, 120), 6, rng)
    found = dawid_skene.combine(some, smoothing=0.0, tolerance=-np.inf, iterations=iterations)
    np.testing.assert_allclose(found.probabilities, _crowd_kit(some, iterations), atol=1e-6)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(GreenpeaError, match="smoothing -1"):
        dawid_skene.combine(_random(0), smoothing=-1)
    with pytest.raises(GreenpeaError, match=r"accuracy 1\.0"):
        dawid_skene.combine(_random(0), accuracy=1.0)
    with pytest.raises(GreenpeaError, match="0 iterations"):
        consistency.combine(_random(0), iterations=0)


# ---- SWAP --------------------------------------------------------------------------------------------


def test_swap_by_hand() -> None:
    # v0 learns on gold s0 (yes) and s1 (no), right twice: (2/3, 2/3). Then says yes about s2, where v1 says no.
    some = _replies([(0, 0, 1), (1, 0, 0), (2, 0, 1), (2, 1, 0)])
    found = swap.combine(some, {"s0": "a1", "s1": "a0"}, Settings(prior=0.2), trajectories=True)
    # The first reply, of somebody of whom nothing is known, says nothing; the second has the odds (1/3) / (1/2).
    posterior = 0.2 * (2 / 3) / (0.2 * (2 / 3) + 0.8 * (1 / 3))
    np.testing.assert_allclose(found.probabilities[:, 1], [0.2, 1 / 7, posterior])
    assert found.trajectory is not None
    np.testing.assert_allclose(found.trajectory, [0.2, 1 / 7, posterior, posterior])
    np.testing.assert_allclose(found.skills, [2 / 3, 0.5])
    np.testing.assert_allclose(found.weights, [1 / 3, 0])
    np.testing.assert_allclose(found.confusion, [[[2 / 3, 1 / 3], [1 / 3, 2 / 3]], [[0.5, 0.5], [0.5, 0.5]]])


def _slow_swap(some: Replies, truth: dict[int, int], settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """SWAP in probabilities, written again as plainly as it can be."""
    p = np.full(len(some.subject_ids), settings.prior)
    done = np.zeros(len(p), bool)
    table = np.zeros((len(some.volunteer_ids), 2, 2))  # volunteer, truth, said
    table[:, 1] = 2 * settings.smoothing * np.array([1 - settings.start[0], settings.start[0]])
    table[:, 0] = 2 * settings.smoothing * np.array([settings.start[1], 1 - settings.start[1]])
    for s, v, said in zip(some.subject, some.volunteer, some.answer, strict=True):
        if done[s]:
            continue
        likelihood = table[v, :, said] / table[v].sum(axis=1)
        before = p[s]
        p[s] = before * likelihood[1] / (before * likelihood[1] + (1 - before) * likelihood[0])
        if s in truth:
            table[v, truth[s], said] += 1
        else:
            if settings.unsupervised:
                table[v, :, said] += [1 - p[s], p[s]]
            done[s] = (settings.accept is not None and p[s] >= settings.accept) or (
                settings.reject is not None and p[s] <= settings.reject
            )
    return p, done


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_swap_is_bayes_rule_reply_by_reply(seed: int, unsupervised: bool, retire: bool) -> None:
    some = _random(seed, answers=2, count=60)
    settings = Settings(0.3, (0.7, 0.6), 1.5, unsupervised, *((0.8, 0.1) if retire else (None, None)))
    found = swap.combine(some, {"s0": "a1", "s3": "a0"}, settings)
    expected, done = _slow_swap(some, {0: 1, 3: 0}, settings)
    np.testing.assert_allclose(found.probabilities[:, 1], expected, atol=1e-9)
    assert found.reasons is not None
    np.testing.assert_array_equal(found.reasons != "", done)


def test_swap_is_the_same_whichever_answer_comes_first() -> None:
    some = _random(4, answers=2, count=80)
    turned = Replies(
        some.subject, some.volunteer, 1 - some.answer, some.subject_ids, some.volunteer_ids, some.answers[::-1]
    )
    gold = {"s1": "a1", "s2": "a0"}
    one = swap.combine(some, gold, Settings(prior=0.3))
    other = swap.combine(turned, gold, Settings(prior=0.3), yes="a1")
    np.testing.assert_allclose(one.probabilities, other.probabilities[:, ::-1])
    assert one.confusion is not None
    assert other.confusion is not None
    np.testing.assert_allclose(one.confusion, other.confusion[:, ::-1, ::-1])
    np.testing.assert_allclose(one.prevalence, np.asarray(other.prevalence)[::-1])


def test_swap_retires_with_a_reason_and_then_heeds_nobody() -> None:
    rows = [(s, 0, int(s == 0)) for s in (0, 1) for _ in range(20)]  # gold for v0
    rows += [(2, 0, 1), (2, 0, 1), (2, 0, 0), (3, 0, 0), (3, 0, 0), (4, 0, 1)]
    settings = Settings(accept=0.99, reject=0.01)
    found = swap.combine(_replies(rows), {"s0": "a1", "s1": "a0"}, settings, trajectories=True)
    assert found.reasons is not None
    assert list(found.reasons) == ["", "", "accepted", "rejected", ""]
    skill = 21 / 22
    assert found.probabilities[2, 1] == pytest.approx(skill**2 / (skill**2 + (1 - skill) ** 2))
    assert found.trajectory is not None
    assert found.trajectory[42] == found.trajectory[41]


@pytest.mark.parametrize("unsupervised", [False, True])
def test_swap_learns_a_planted_crowd(unsupervised: bool) -> None:
    rng = np.random.default_rng(9)
    yes, no = rng.uniform(0.55, 0.95, (2, 30))
    confusion = np.stack([np.stack([no, 1 - no], 1), np.stack([1 - yes, yes], 1)], axis=1)
    some, truth = _crowd(confusion, (rng.random(2000) < 0.2).astype(int), 12, rng)
    some = some.select(rng.permutation(len(some)))
    gold = {} if unsupervised else {f"s{i}": f"a{truth[i]}" for i in range(400)}
    settings = Settings(prior=0.2, start=(0.7, 0.7) if unsupervised else (0.5, 0.5), unsupervised=unsupervised)
    found = swap.combine(some, gold, settings)
    rest = slice(400, None)
    assert np.abs(np.asarray(found.confusion) - confusion).mean() < 0.05
    assert (found.probabilities.argmax(axis=1) == truth)[rest].mean() > 0.97


def test_swap_refuses_what_it_cannot_use() -> None:
    two, three = _random(0, answers=2), _random(0, answers=3)
    with pytest.raises(GreenpeaError, match="two answers, not 3"):
        swap.combine(three, {"s0": "a0"})
    with pytest.raises(GreenpeaError, match="gold subject 's99' is not among the replies"):
        swap.combine(two, {"s99": "a0"})
    with pytest.raises(GreenpeaError, match="gold subject 's0' has the answer 'yes': give one of 'a0', 'a1'"):
        swap.combine(two, {"s0": "yes"})
    with pytest.raises(GreenpeaError, match="without gold subjects nothing can be learned"):
        swap.combine(two, {}, Settings(unsupervised=True))
    with pytest.raises(GreenpeaError, match="no answer 'a2'"):
        swap.combine(two, {"s0": "a0"}, yes="a2")
    with pytest.raises(GreenpeaError, match="prior 1"):
        Settings(prior=1)
    with pytest.raises(GreenpeaError, match="either side"):
        Settings(prior=0.5, accept=0.4)


# ---- effective votes ---------------------------------------------------------------------------------


@given(st.integers(0, 10_000))
def test_effective_counts_are_sums_of_weights_beside_the_raw_counts(seed: int) -> None:
    tree = galaxy_tree()
    some = _classifications(tree, seed)
    weights = {f"v{i}": i / 3 for i in range(4)}
    votes = effective(iter(some), tree, weights)
    assert votes.counts.keys() == votes.effective.keys()
    expected = {q.slug: np.zeros((len(votes), len(q.answers))) for q in tree.questions}
    place = {subject: row for row, subject in enumerate(votes.subject_ids)}
    for one in some:
        for slug, given_ in one.annotations.items():
            for answer in given_:
                expected[slug][place[one.subject_id], tree[slug].answer_slugs.index(answer)] += weights[one.volunteer]
    raw = count(some, tree)
    for slug in tree.slugs:
        np.testing.assert_allclose(votes.effective[slug], expected[slug])
        np.testing.assert_array_equal(votes.counts[slug], raw.counts[slug])


def test_effective_counts_of_equal_volunteers_are_the_raw_counts() -> None:
    tree = galaxy_tree()
    some = _classifications(tree, 3)
    votes = effective(some, tree, counts.combine(replies(some, tree)["smooth"]).weight_of)
    for slug in tree.slugs:
        np.testing.assert_array_equal(votes.effective[slug], votes.counts[slug])


@pytest.mark.parametrize("weights", [{}, {"v": np.nan}, {"v": -1.0}])
def test_a_weight_that_is_missing_or_no_number_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(GreenpeaError, match="weight of volunteer 'v' is"):
        effective([Classification("c", "s", "v", {"q": ["a0"]})], one_question(2), weights)


# ---- the presence-absence votes ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def presence(data_folder: Path) -> Replies:
    path = data_folder / "zooniverse" / "presence-absence-extracts.csv"
    columns = ("subject_ids", "user_name", "val")
    return Replies.from_table(read_table(path), ("No.", "Yes!"), columns, "created_at", path.name)


@pytest.mark.data
def test_real_counts_are_the_reference(presence: Replies, data_folder: Path) -> None:
    table = read_table(data_folder / "zooniverse" / "presence-absence-reference.csv")
    names = column_as_strings(table["# subject_ids"])
    place = {subject: row for row, subject in enumerate(presence.subject_ids)}
    rows = [place[name] for name in names]
    yes, no, null = (table[f"frac_{word}"].to_numpy() for word in ("yes", "no", "null"))
    np.testing.assert_array_equal(presence.counts()[rows], np.stack([no, yes], axis=1))
    everything = read_table(data_folder / "zooniverse" / "presence-absence-extracts.csv")
    three = Replies.from_table(everything, ("No.", "Yes!", ""), ("subject_ids", "user_name", "val"))
    place = {subject: row for row, subject in enumerate(three.subject_ids)}
    np.testing.assert_array_equal(three.counts()[[place[name] for name in names], 2], null)
    assert (len(three), len(presence), len(presence.first())) == (7568, 7074, 5015)


@pytest.mark.data
def test_real_dawid_skene_is_crowd_kits(presence: Replies) -> None:
    found = dawid_skene.combine(presence, smoothing=0.0, tolerance=-np.inf, iterations=20)
    np.testing.assert_allclose(found.probabilities, _crowd_kit(presence, 20), atol=1e-6)


@pytest.mark.data
def test_real_votes_are_so_clear_that_every_method_agrees(presence: Replies) -> None:
    settings = Settings(prior=0.5, start=(0.75, 0.75), unsupervised=True, accept=0.999, reject=0.001)
    early = swap.combine(presence.first(), {}, settings)
    majority = counts.combine(presence).best
    for found in (*_methods(presence), *_methods(presence.first()), early):
        np.testing.assert_array_equal(found.best, majority)
    assert early.reasons is not None
    assert [int((early.reasons == reason).sum()) for reason in ("accepted", "rejected")] == [76, 24]
    assert (consistency.combine(presence).weights < 1).sum() == 1


def test_the_document_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parent.parent / "docs" / "volunteers.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(example, page.name, "exec"), {})
    assert "[4 1]" in capsys.readouterr().out
