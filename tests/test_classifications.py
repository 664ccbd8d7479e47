"""Classifications as values: walks through trees, and the votes they add up to."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from greenpea.classifications import Classification, add, check, count, tally, votes_of, walk
from greenpea.errors import GreenpeaError
from greenpea.tree import DecisionTree
from hands import galaxy_tree
from strategies import trees

TREE = galaxy_tree()
WHOLE = {"smooth": ["no"], "bar": ["yes"], "merging": ["no"], "rare": ["ring", "lens"]}


def random_walk(tree: DecisionTree, rng: random.Random) -> dict[str, list[str]]:
    """One volunteer's answers, drawn at random, from the first question to an end."""
    given: dict[str, list[str]] = {}
    slug: str | None = tree.first
    while slug is not None:
        question = tree[slug]
        if question.kind == "multiple":
            given[slug] = rng.sample(question.answer_slugs, rng.randint(0, len(question.answers)))
            slug = question.next
        else:
            answer = rng.choice(question.answers)
            given[slug] = [answer.slug]
            slug = answer.next
    return given


@st.composite
def tree_and_walks(draw: st.DrawFn, most: int = 8) -> tuple[DecisionTree, list[dict[str, list[str]]]]:
    tree, rng = draw(trees()), random.Random(draw(st.integers(0, 2**32)))
    return tree, [random_walk(tree, rng) for _ in range(draw(st.integers(1, most)))]


# ---- walks ---------------------------------------------------------------------------------------------


@given(tree_and_walks())
def test_every_walk_is_accepted_in_any_order_of_its_questions(
    values: tuple[DecisionTree, list[dict[str, list[str]]]],
) -> None:
    tree, walks = values
    for one in walks:
        assert walk(tree, one) == (list(one), None)
        check(tree, one)
        check(tree, dict(reversed(one.items())))
        check(tree, {question: tuple(answers) for question, answers in one.items()})


@given(tree_and_walks(most=1))
def test_without_its_last_answer_a_walk_is_not_finished(
    values: tuple[DecisionTree, list[dict[str, list[str]]]],
) -> None:
    tree, (one,) = values
    last = list(one)[-1]
    del one[last]
    assert walk(tree, one) == (list(one), last)
    with pytest.raises(GreenpeaError, match=f"'{last}' has no answer"):
        check(tree, one)
    if one:
        check(tree, one, complete=False)
    else:
        with pytest.raises(GreenpeaError, match="no answer"):
            check(tree, one, complete=False)


@given(tree_and_walks(most=1), st.data())
def test_a_question_beside_the_way_is_refused(
    values: tuple[DecisionTree, list[dict[str, list[str]]]], data: st.DataObject
) -> None:
    tree, (one,) = values
    others = [slug for slug in tree.slugs if slug not in one]
    assume(others)
    other = data.draw(st.sampled_from(others))
    for complete in (True, False):
        with pytest.raises(GreenpeaError, match=f"do not lead to question '{other}': leave it out"):
            check(tree, one | {other: [tree[other].answer_slugs[0]]}, complete)
    with pytest.raises(GreenpeaError, match="has no question 'nonsense'"):
        check(tree, one | {"nonsense": ["a"]})


@given(tree_and_walks(most=1), st.data())
def test_a_hole_in_the_walk_is_refused(
    values: tuple[DecisionTree, list[dict[str, list[str]]]], data: st.DataObject
) -> None:
    tree, (one,) = values
    assume(len(one) > 1)
    del one[data.draw(st.sampled_from(list(one)[:-1]))]
    for complete in (True, False):
        with pytest.raises(GreenpeaError):
            check(tree, one, complete)


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({}, "question 'smooth' has no answer"),
        ({"smooth": []}, "takes exactly one answer, not 0"),
        ({"smooth": ["yes", "no"]}, "takes exactly one answer, not 2"),
        ({"smooth": ["yes", "yes"]}, "the same answer twice"),
        ({"smooth": "yes"}, r"must be a list, such as \['yes'\]"),
        ({"smooth": None}, "must be a list"),
        ({"smooth": 1}, "must be a list"),
        ({"smooth": {"yes": 1}}, "must be a list"),
        ({"smooth": [["yes"]]}, "has no answer"),
        ({"smooth": [None]}, "has no answer None"),
        ({"smooth": ["artefact"]}, "did you mean 'artifact'"),
        ({"smoooth": ["yes"]}, "did you mean 'smooth'"),
        (["smooth"], "annotations are an object"),
        ("smooth", "annotations are an object"),
        (None, "annotations are an object"),
        (WHOLE | {"rare": ["ring", "ring"]}, "the same answer twice"),
        (WHOLE | {"rare": ["rings"]}, "did you mean 'ring'"),
    ],
)
def test_what_is_no_walk_is_refused_with_words(annotations: Any, words: str) -> None:
    for complete in (True, False):
        with pytest.raises(GreenpeaError, match=words):
            check(TREE, annotations, complete)


def test_a_multiple_question_takes_any_number_of_answers() -> None:
    for rare in ([], ["ring"], ["lens"], ["lens", "ring"]):
        check(TREE, WHOLE | {"rare": rare})


# ---- counts --------------------------------------------------------------------------------------------


@given(tree_and_walks(), st.randoms())
def test_what_is_added_and_taken_out_in_any_order_leaves_nothing(
    values: tuple[DecisionTree, list[dict[str, list[str]]]], rng: random.Random
) -> None:
    _, walks = values
    counts = tally(walks)
    assert all(number > 0 for number in counts.values())
    out = rng.sample(walks, len(walks))
    for done, one in enumerate(out, start=1):
        add(counts, one, sign=-1)
        assert counts == tally(out[done:])
    assert counts == {}


def test_a_tally_counts_who_reached_a_question_apart_from_its_answers() -> None:
    counts = tally([WHOLE, {"smooth": ["artifact"]}, WHOLE | {"rare": []}])
    assert counts == {
        "smooth": 3,
        "smooth/no": 2,
        "smooth/artifact": 1,
        "bar": 2,
        "bar/yes": 2,
        "merging": 2,
        "merging/no": 2,
        "rare": 2,
        "rare/ring": 1,
        "rare/lens": 1,
    }
    votes = votes_of({"s": counts}, TREE)
    assert votes.reached["rare"].tolist() == [2]
    assert votes.counts["rare"].tolist() == [[1, 1]]
    assert votes.counts["smooth"].tolist() == [[0, 2, 1]]


@given(tree_and_walks(most=20), st.data())
def test_count_is_what_counting_by_hand_gives(
    values: tuple[DecisionTree, list[dict[str, list[str]]]], data: st.DataObject
) -> None:
    tree, walks = values
    subjects = [data.draw(st.sampled_from("zab")) for _ in walks]
    made = [
        Classification(str(i), subject, "v", one) for i, (subject, one) in enumerate(zip(subjects, walks, strict=True))
    ]
    votes = count(iter(made), tree)
    assert votes.subject_ids.tolist() == list(dict.fromkeys(subjects))
    for row, subject in enumerate(votes.subject_ids):
        mine = [one for one, its in zip(walks, subjects, strict=True) if its == subject]
        for question in tree.questions:
            replies = [one[question.slug] for one in mine if question.slug in one]
            given = Counter(answer for reply in replies for answer in reply)
            assert votes.reached[question.slug][row] == len(replies)
            assert votes.counts[question.slug][row].tolist() == [given[answer] for answer in question.answer_slugs]


@given(tree_and_walks())
def test_votes_keep_the_order_of_the_tallies(
    values: tuple[DecisionTree, list[dict[str, list[str]]]],
) -> None:
    tree, walks = values
    tallies = {f"s{i}": tally(walks[: i + 1]) for i in reversed(range(len(walks)))} | {"empty": {}}
    votes = votes_of(tallies, tree)
    assert votes.subject_ids.tolist() == list(tallies)
    assert votes.reached[tree.first].tolist() == [*range(len(walks), 0, -1), 0]
    assert votes_of({}, tree).subject_ids.tolist() == []
    assert all(votes.counts[slug].dtype == votes.reached[slug].dtype == np.int64 for slug in tree.slugs)
