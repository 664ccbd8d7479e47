"""Random values for hypothesis: valid decision trees, votes on them, fractions for them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from greenpea.tree import Answer, DecisionTree, Question
from greenpea.votes import Votes

# Few letters, so that "a-b" + "c" and "a" + "b-c" meet.
SLUGS = st.lists(st.sampled_from(["a", "b", "c", "1"]), min_size=1, max_size=3).map("-".join)
TEXTS = st.dictionaries(st.sampled_from(["en", "fr", "zh-cn"]), st.text(max_size=8), max_size=2)


@st.composite
def trees(draw: st.DrawFn, most: int = 7) -> DecisionTree:
    """Up to ``most`` questions, single and multiple, with shared children, written in any order."""
    slugs = draw(st.lists(SLUGS, min_size=1, max_size=most, unique=True))
    questions = {slug: draw(_questions(slug, slugs[place + 1 :])) for place, slug in enumerate(slugs)}
    reached = {slugs[0]}
    for slug in slugs:
        reached |= questions[slug].followers if slug in reached else frozenset()
    return DecisionTree(
        name=draw(SLUGS),
        version=draw(st.text(min_size=1, max_size=5)),
        title=draw(TEXTS),
        first=slugs[0],
        questions=tuple(draw(st.permutations([questions[slug] for slug in slugs if slug in reached]))),
    )


@st.composite
def _questions(draw: st.DrawFn, slug: str, later: list[str]) -> Question:
    multiple = draw(st.booleans())
    goals = st.sampled_from([*later, None])
    answers = draw(st.lists(SLUGS, min_size=1 if multiple else 2, max_size=4, unique=True))
    return Question(
        slug=slug,
        kind="multiple" if multiple else "single",
        text=draw(TEXTS),
        help=draw(TEXTS),
        next=draw(goals) if multiple else None,
        answers=tuple(
            Answer(slug=answer, text=draw(TEXTS), help=draw(TEXTS), next=None if multiple else draw(goals))
            for answer in answers
        ),
    )


def fractions(tree: DecisionTree, seed: int, batch: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Random answer fractions: they sum to 1 where the question is single, each free where multiple."""
    rng = np.random.default_rng(seed)
    return {
        question.slug: rng.dirichlet(np.ones(len(question.answers)), batch)
        if question.kind == "single"
        else rng.random((*batch, len(question.answers)))
        for question in tree.questions
    }


def walk(tree: DecisionTree, chances: dict[str, np.ndarray], volunteers: int, rng: np.random.Generator) -> Votes:
    """Votes of volunteers who walk through the tree one by one, for as many subjects as ``chances`` has rows."""
    votes = Votes.empty(tree, [f"subject-{row}" for row in range(len(chances[tree.first]))])
    for row in range(len(votes)):
        for _ in range(volunteers):
            slug: str | None = tree.first
            while slug is not None:
                question, chance = tree[slug], chances[slug][row]
                votes.reached[slug][row] += 1
                if question.kind == "multiple":
                    votes.counts[slug][row] += rng.random(len(chance)) < chance
                    slug = question.next
                else:
                    choice = rng.choice(len(chance), p=chance)
                    votes.counts[slug][row, choice] += 1
                    slug = question.answers[choice].next
    return votes
