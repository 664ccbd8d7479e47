"""Decision trees: reading, refusing, looking up, and the share of volunteers who reach each question."""

from __future__ import annotations

import itertools
import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenpea.errors import GreenpeaError
from greenpea.tree import DecisionTree, Parent, shipped, slugify
from strategies import fractions, trees, walk

# ---- files -------------------------------------------------------------------------------------------


@given(trees())
def test_json_gives_back_an_equal_tree(tree: DecisionTree) -> None:
    again = DecisionTree.from_json(tree.to_json())
    assert again == tree
    assert again.slugs == tree.slugs
    assert again.to_json() == tree.to_json()


def test_a_tree_loads_from_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    tree = DecisionTree.load("gz2")
    file = tmp_path / "mine.json"
    file.write_bytes(b"\xef\xbb\xbf" + tree.to_json().encode())
    assert DecisionTree.load(file) == tree


def test_plain_text_is_english_and_the_first_question_listed_is_the_first() -> None:
    tree = DecisionTree.from_json(
        '{"name": "rings", "questions": [{"slug": "ring", "text": "A ring?", '
        '"answers": [{"slug": "yes", "text": {"fr": "Oui"}}, {"slug": "no"}]}]}'
    )
    assert tree.first == "ring"
    assert tree["ring"].text == {"en": "A ring?"}
    assert tree["ring"].label("fr") == "A ring?"
    assert [answer.label("fr") for answer in tree["ring"].answers] == ["Oui", "no"]
    assert tree["ring"].answers[0].label() == "yes"


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("Can't tell", "cant-tell"),
        ("  Lens or arc ", "lens-or-arc"),
        ("disk_edge_on", "disk-edge-on"),
        ("Élève, 2 bras", "eleve-2-bras"),
        ("!?", ""),
    ],
)
def test_slugify(text: str, slug: str) -> None:
    assert slugify(text) == slug


# ---- the shipped trees, against the published tables ---------------------------------------------------

GZ2 = {
    "smooth-or-features": {"smooth": "rounded", "features-or-disk": "edgeon", "star-or-artifact": None},
    "edgeon": {"yes": "bulge-shape", "no": "bar"},
    "bar": {"bar": "spiral", "no-bar": "spiral"},
    "spiral": {"spiral": "arms-winding", "no-spiral": "bulge-prominence"},
    "bulge-prominence": {"no-bulge": "odd", "just-noticeable": "odd", "obvious": "odd", "dominant": "odd"},
    "odd": {"yes": "odd-feature", "no": None},
    "rounded": {"completely-round": "odd", "in-between": "odd", "cigar-shaped": "odd"},
    "odd-feature": {
        "ring": None,
        "lens-or-arc": None,
        "disturbed": None,
        "irregular": None,
        "other": None,
        "merger": None,
        "dust-lane": None,
    },
    "bulge-shape": {"rounded": "odd", "boxy": "odd", "no-bulge": "odd"},
    "arms-winding": {"tight": "arms-number", "medium": "arms-number", "loose": "arms-number"},
    "arms-number": {
        "1": "bulge-prominence",
        "2": "bulge-prominence",
        "3": "bulge-prominence",
        "4": "bulge-prominence",
        "more-than-4": "bulge-prominence",
        "cant-tell": "bulge-prominence",
    },
}

GZD5 = {
    "smooth-or-featured": {"smooth": "how-rounded", "featured-or-disk": "disk-edge-on", "artifact": None},
    "how-rounded": {"round": "merging", "in-between": "merging", "cigar-shaped": "merging"},
    "disk-edge-on": {"yes": "edge-on-bulge", "no": "bar"},
    "edge-on-bulge": {"rounded": "merging", "boxy": "merging", "none": "merging"},
    "bar": {"no": "has-spiral-arms", "weak": "has-spiral-arms", "strong": "has-spiral-arms"},
    "has-spiral-arms": {"yes": "spiral-winding", "no": "bulge-size"},
    "spiral-winding": {"tight": "spiral-arm-count", "medium": "spiral-arm-count", "loose": "spiral-arm-count"},
    "spiral-arm-count": {
        "1": "bulge-size",
        "2": "bulge-size",
        "3": "bulge-size",
        "4": "bulge-size",
        "more-than-4": "bulge-size",
        "cant-tell": "bulge-size",
    },
    "bulge-size": {
        "none": "merging",
        "small": "merging",
        "moderate": "merging",
        "large": "merging",
        "dominant": "merging",
    },
    "merging": {
        "merger": "rare-features",
        "major-disturbance": "rare-features",
        "minor-disturbance": "rare-features",
        "none": "rare-features",
    },
    "rare-features": {
        "ring": None,
        "lens-or-arc": None,
        "irregular": None,
        "dust-lane": None,
        "overlapping": None,
        "something-else": None,
        "nothing-unusual": None,
    },
}


def _branching(tree: DecisionTree) -> dict[str, dict[str, str | None]]:
    return {
        question.slug: {answer.slug: question.next or answer.next for answer in question.answers}
        for question in tree.questions
    }


def test_galaxy_zoo_2_branches_as_published() -> None:
    tree = DecisionTree.load("gz2")
    assert _branching(tree) == GZ2
    assert sum(map(len, tree.answers.values())) == 37
    assert {question.kind for question in tree.questions} == {"single"}


def test_galaxy_zoo_decals_5_branches_as_published() -> None:
    tree = DecisionTree.load("gz-decals-5")
    assert _branching(tree) == GZD5
    assert [question.slug for question in tree.questions if question.kind == "multiple"] == ["rare-features"]


def test_every_shipped_tree_is_valid_and_named_as_its_file() -> None:
    assert set(shipped()) >= {"binary", "gz-decals-1-2", "gz-decals-5", "gz2"}
    for name in shipped():
        tree = DecisionTree.load(name)
        assert tree.name == name
        assert all(question.text.get("en") for question in tree.questions)
        assert all(answer.text.get("en") for question in tree.questions for answer in question.answers)


# ---- what is refused, and what is said about it ----------------------------------------------------------


def _tree(*questions: dict[str, Any] | str, **keys: Any) -> str:
    return json.dumps({"name": "mine", "questions": questions, **keys})


def _ask(slug: str, *answers: str, **keys: Any) -> dict[str, Any]:
    """A question from answers such as ``"yes→bar"`` (leads to bar) and ``"no"`` (ends)."""
    parts = [answer.split("→") for answer in answers]
    return {
        "slug": slug,
        "answers": [{"slug": a, **({"next": goal[0]} if goal else {})} for a, *goal in parts],
        **keys,
    }


BROKEN = {
    "unknown next": (
        _tree(_ask("disk", "yes→barr", "no"), _ask("bar", "yes", "no")),
        ["question 'disk'", "'barr'", "does not exist", "did you mean 'bar'?"],
    ),
    "unknown next, nothing like it": (
        _tree(_ask("disk", "yes→quasar", "no")),
        ["question 'disk'", "'quasar'", "add it, or remove"],
    ),
    "unknown first": (
        _tree(_ask("disk", "yes", "no"), first="disc"),
        ["first question 'disc'", "did you mean 'disk'?"],
    ),
    "circle": (
        _tree(_ask("disk", "yes→bar", "no"), _ask("bar", "yes→arms", "no"), _ask("arms", "yes→disk", "no")),
        ["circle: ", "remove one of these 'next'"],
    ),
    "itself": (_tree(_ask("disk", "yes→disk", "no")), ["circle: disk → disk"]),
    "unreachable": (
        _tree(_ask("disk", "yes", "no"), _ask("bar", "yes→arms", "no"), _ask("arms", "yes", "no")),
        ["no answer leads to 'bar', 'arms'", "give an answer this 'next', or remove the question"],
    ),
    "question twice": (
        _tree(_ask("disk", "yes", "no"), _ask("disk", "yes", "no")),
        ["the question 'disk' stands more than once", "rename one"],
    ),
    "answer twice": (
        _tree(_ask("disk", "yes", "no", "yes")),
        ["question 'disk'", "the answer 'yes' more than once", "rename one"],
    ),
    "next on a single question": (
        _tree(_ask("disk", "yes→bar", "no", next="bar"), _ask("bar", "yes", "no")),
        ["question 'disk' is 'single'", "move its 'next' to each of its answers"],
    ),
    "next on the answer of a multiple question": (
        _tree(_ask("rare", "ring→bar", kind="multiple"), _ask("bar", "yes", "no")),
        ["question 'rare' is 'multiple'", "put one 'next' on the question"],
    ),
    "one answer": (
        _tree(_ask("disk", "yes")),
        ["question 'disk' offers one answer only", "add another, or make its kind 'multiple'"],
    ),
    "no answer": (_tree(_ask("disk")), ["question 'disk'", "'answers' is empty", "list at least one"]),
    "no question": (_tree(), ["'questions' is empty", "list at least one"]),
    "unknown key of a question": (
        _tree(_ask("disk", "yes", "no", kindd="single")),
        ["question 'disk'", "unknown key 'kindd'", "did you mean 'kind'?"],
    ),
    "unknown key of an answer": (
        _tree({"slug": "disk", "answers": [{"slug": "yes", "weather": 1}, {"slug": "no"}]}),
        ["question 'disk', answer 'yes'", "unknown key 'weather'", "remove it"],
    ),
    "unknown key of the tree": (
        _tree(_ask("disk", "yes", "no"), titel="Mine"),
        ["unknown key 'titel'", "did you mean 'title'?"],
    ),
    "missing slug": (
        _tree({"answers": [{"slug": "yes"}, {"slug": "no"}]}),
        ["question 'number 1'", "the key 'slug' is missing", "add it"],
    ),
    "bad slug of a question": (
        _tree(_ask("Is it a disk?", "yes", "no")),
        ["question 'Is it a disk?'", "is not a slug", "'is-it-a-disk'"],
    ),
    "bad slug of an answer": (
        _tree(_ask("disk", "Yes!", "no")),
        ["question 'disk', answer 'Yes!'", "is not a slug", "'yes'"],
    ),
    "bad next": (_tree(_ask("disk", "yes→The bar", "no")), ["question 'disk', answer 'yes'", "'the-bar'"]),
    "slug without a letter": (_tree(_ask("disk", "?", "no")), ["answer '?'", "such as 'how-rounded'"]),
    "answer named as a column": (
        _tree(_ask("disk", "reached", "no")),
        ["question 'disk'", "'reached'", "rename it"],
    ),
    "unknown kind": (
        _tree(_ask("disk", "yes", "no", kind="double")),
        ["question 'disk'", "'single' or 'multiple'"],
    ),
    "questions that are no objects": (
        _tree("disk"),
        ["mine.json: 'disk' must be a JSON object with the key 'slug'"],
    ),
    "questions that are no list": ('{"name": "mine", "questions": {"disk": 1}}', ["'questions' must be a list"]),
    "not an object": ("[1]", ["a tree is a JSON object with the keys 'name' and 'questions'"]),
    "not JSON": ('{"name": "mine",\n oops}', ["is not JSON", "line 2, column 2"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_refused_is_named_with_the_remedy(name: str) -> None:
    text, expected = BROKEN[name]
    with pytest.raises(GreenpeaError) as caught:
        DecisionTree.from_json(text, "mine.json")
    assert str(caught.value).startswith("mine.json")
    assert [words for words in expected if words not in str(caught.value)] == []


def test_a_circle_is_told_in_the_order_volunteers_would_walk_it() -> None:
    with pytest.raises(GreenpeaError) as caught:
        DecisionTree.from_json(BROKEN["circle"][0])
    circle = str(caught.value).partition("circle: ")[2].partition(";")[0].split(" → ")
    assert circle[0] == circle[-1]
    assert set(itertools.pairwise(circle)) == {("disk", "bar"), ("bar", "arms"), ("arms", "disk")}


def test_one_fault_is_told_once() -> None:
    with pytest.raises(GreenpeaError) as caught:
        DecisionTree.from_json(BROKEN["bad slug of an answer"][0])
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_is_told_with_the_shipped_trees() -> None:
    with pytest.raises(GreenpeaError, match=r"no tree 'gz3' \(did you mean 'gz2'\?.*JSON file.*gz-decals-5"):
        DecisionTree.load("gz3")


def test_a_file_that_is_no_utf8_is_told(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_bytes('{"name": "é"}'.encode("utf-16"))
    with pytest.raises(GreenpeaError, match=r"mine\.json is not UTF-8 text: save it as UTF-8"):
        DecisionTree.load(file)


def test_an_unknown_question_is_told_with_the_closest() -> None:
    with pytest.raises(GreenpeaError, match=r"tree 'gz2' has no question 'barr' \(did you mean 'bar'\?"):
        DecisionTree.load("gz2")["barr"]


# ---- order, parents, routes ------------------------------------------------------------------------------


@given(trees())
def test_every_question_comes_after_its_parents(tree: DecisionTree) -> None:
    place = {slug: index for index, slug in enumerate(tree.topological_order)}
    assert sorted(place) == sorted(tree.slugs)
    assert tree.topological_order[0] == tree.first
    for slug, ways in tree.parents.items():
        assert all(place[way.question] < place[slug] for way in ways)
        assert bool(ways) == (slug != tree.first)


def _all_routes(tree: DecisionTree) -> dict[str, set[tuple[Parent, ...]]]:
    """Every route, found by walking down from the root."""
    found: dict[str, set[tuple[Parent, ...]]] = {slug: set() for slug in tree.slugs}
    open_routes: deque[tuple[str, tuple[Parent, ...]]] = deque([(tree.first, ())])
    while open_routes:
        slug, route = open_routes.popleft()
        found[slug].add(route)
        question = tree[slug]
        steps = [(a.slug, a.next) for a in question.answers] if question.kind == "single" else [(None, question.next)]
        for answer, goal in steps:
            if goal is not None:
                open_routes.append((goal, (*route, Parent(question=slug, answer=answer))))
    return found


@given(trees(most=6))
def test_routes_up_are_the_walks_down(tree: DecisionTree) -> None:
    walks = _all_routes(tree)
    for slug in tree.slugs:
        routes = tree.routes(slug)
        assert len(routes) == len(set(routes))
        assert set(routes) == walks[slug]


def test_galaxy_zoo_2_has_as_many_routes_as_its_branching_gives() -> None:
    tree = DecisionTree.load("gz2")
    # spiral: 2 bars; arms-number: 2 × 3 windings; bulge-prominence: 2 without arms + 2 × 3 × 6 with.
    assert {slug: len(tree.routes(slug)) for slug in ("spiral", "arms-number", "bulge-prominence", "odd")} == {
        "spiral": 2,
        "arms-number": 6,
        "bulge-prominence": 38,
        "odd": 38 * 4 + 3 + 3,
    }


# ---- reach -----------------------------------------------------------------------------------------------


@given(trees(most=6), st.integers(0, 2**32 - 1))
def test_reach_is_the_sum_over_routes_for_every_draw_and_subject(tree: DecisionTree, seed: int) -> None:
    draws, subjects = 2, 3
    shares = fractions(tree, seed, (draws, subjects))
    reach = tree.reach(shares)
    assert list(reach) == list(tree.slugs)
    for slug in tree.slugs:
        expected = np.zeros((draws, subjects))
        for route in tree.routes(slug):
            product = np.ones((draws, subjects))
            for step in route:
                if step.answer is not None:
                    product *= shares[step.question][:, :, tree[step.question].answer_slugs.index(step.answer)]
            expected += product
        np.testing.assert_allclose(reach[slug], expected, rtol=1e-12)


SMALL = DecisionTree.from_json(
    _tree(
        _ask("disk", "yes→rare", "no→odd", "star"),
        _ask("rare", "ring", "lens", kind="multiple", next="odd"),
        _ask("odd", "yes→what", "no"),
        _ask("what", "this", "that"),
    )
)


def test_reach_by_hand() -> None:
    """All who are asked a `multiple` question go on together, whatever they tick."""
    reach = SMALL.reach(
        {
            "disk": np.array([0.5, 0.3, 0.2]),
            "rare": np.array([0.9, 0.0]),
            "odd": np.array([0.25, 0.75]),
            "what": np.array([1.0, 0.0]),
        }
    )
    assert {slug: float(share) for slug, share in reach.items()} == pytest.approx(
        {"disk": 1.0, "rare": 0.5, "odd": 0.8, "what": 0.2}
    )


def test_reach_is_what_simulated_volunteers_do() -> None:
    volunteers = 20_000
    chances = fractions(SMALL, seed=11, batch=(2,))
    votes = walk(SMALL, chances, volunteers, np.random.default_rng(12))
    for slug, share in SMALL.reach(chances).items():
        error = np.sqrt(share * (1 - share) / volunteers)
        assert np.all(np.abs(votes.reached[slug] / volunteers - share) <= 4.5 * error), slug


def test_reach_keeps_the_type_of_the_fractions() -> None:
    shares = {slug: array.astype(np.float32) for slug, array in fractions(SMALL, 0, (4, 5)).items()}
    assert {array.dtype for array in SMALL.reach(shares).values()} == {np.dtype(np.float32)}
