"""What the network believes of one subject, alone and together with its votes, and its picture question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from greenpea.classifications import Tally, votes_of
from greenpea.combining import combine
from greenpea.embeddings import Embeddings
from greenpea.heads import Heads
from greenpea.posterior import Posterior
from greenpea.records import HEADS, newest_with_heads
from greenpea.site import charts
from greenpea.site.context import Site
from greenpea.site.rounds import rounds_of
from greenpea.store import Subject
from greenpea.tree import Answer, DecisionTree

USUAL = 40  # volunteers to predict for, where nobody has reached the question yet
DRAWN = 20  # single draws shown in a chart: enough to see how far they agree
LEVEL = 0.9  # of the intervals told


class Believed(NamedTuple):
    """The posteriors of one subject by the heads of a round."""

    round: int
    network: Posterior
    combined: Posterior


def posterior_of(site: Site, subject: Subject) -> Believed | None:
    """Return a subject's posterior without and with its votes, by the newest promoted heads.

    None where no round has promoted heads for the active tree, or the subject has no embedding. Raises
    GreenpeaError where the round's files are damaged.
    """
    record = newest_with_heads(list(rounds_of(site.folder).records))
    tree = site.store.workflows.active().workflow.tree
    if record is None:
        return None
    heads = _heads(record.folder / HEADS, record.model)
    if heads.layout.tree.structure != tree.structure:
        return None
    embeddings = _kept(Embeddings.open(site.folder, record.encoder))
    rows = embeddings.rows_of([subject.subject_id])
    if rows[0] < 0:
        return None
    ids, votes = np.array([subject.subject_id]), votes_of({subject.subject_id: subject.tally}, tree)
    network = heads.posterior(embeddings.take(rows), ids)
    combined = combine(network, votes)
    if combined.effective_draws[0] < site.settings.loop.fewest_draws:
        combined = combine(heads.posterior(embeddings.take(rows), ids, draws=heads.weights.shape[1]), votes)
    return Believed(record.number, network, combined)


@lru_cache(maxsize=2)
def _heads(folder: Path, model: str) -> Heads:
    """Return the heads in a folder, read once; ``model`` tells those of a round that was run anew from the old."""
    return Heads.load(folder)


@lru_cache(maxsize=2)
def _kept(embeddings: Embeddings) -> Embeddings:
    """Return what was first opened of equal ones: it has its ids in memory. They are not equal once it has grown."""
    return embeddings


# ---- the picture -------------------------------------------------------------------------------------


class Expected(NamedTuple):
    """How many of the volunteers are expected to give an answer, and the interval that holds nine futures in ten."""

    mean: float
    low: int
    high: int


@dataclass(frozen=True)
class AnswerPicture:
    """One answer of one subject: the chart, and its numbers. ``votes`` is None where nobody reached the question."""

    answer: Answer
    chart: Markup
    network: Expected
    combined: Expected
    votes: int | None


@dataclass(frozen=True)
class QuestionPicture:
    """One question of one subject: of ``volunteers`` who reach it, how many give each answer.

    ``reach`` is the share of all volunteers whom network and votes together expect here.
    """

    volunteers: int
    reach: float
    answers: tuple[AnswerPicture, ...]


def pictures(believed: Believed, tree: DecisionTree, tally: Tally) -> Mapping[str, QuestionPicture]:
    """Return question → its picture, for the one subject the posteriors hold."""
    reach = believed.combined.reach()
    return {
        question.slug: _picture(
            believed, tree, question.slug, tally, float(believed.combined.average(reach[question.slug])[0])
        )
        for question in tree.questions
    }


def _picture(believed: Believed, tree: DecisionTree, slug: str, tally: Tally, reach: float) -> QuestionPicture:
    reached = tally.get(slug, 0)
    volunteers = reached or USUAL
    draws = believed.network.pmf(slug, volunteers)
    network = believed.network.average(draws)[0]
    combined = believed.combined.average(believed.combined.pmf(slug, volunteers))[0]
    answers = tuple(
        _answer(f"p-{slug}-{i}", answer, draws[:DRAWN, 0, i], network[i], combined[i],
                tally.get(f"{slug}/{answer.slug}", 0) if reached else None)
        for i, answer in enumerate(tree[slug].answers)
    )  # fmt: skip
    return QuestionPicture(volunteers, reach, answers)


def _answer(
    name: str, answer: Answer, draws: np.ndarray, network: np.ndarray, combined: np.ndarray, votes: int | None
) -> AnswerPicture:
    alone, together = expected(network), expected(combined)
    volunteers = len(network) - 1
    told = f"Of {volunteers}, the network expects {said(alone)}; together with the votes {said(together)}."
    told += f" Votes so far: {votes}." if votes is not None else " No votes yet."
    title = f"{answer.label()}: how many of {volunteers} volunteers"
    chart = charts.pmf(name, title, told, draws.tolist(), network.tolist(), combined.tolist(), votes)
    return AnswerPicture(answer, chart, alone, together, votes)


def expected(pmf: Sequence[float] | np.ndarray) -> Expected:
    """Return mean and central interval of p(k), k = 0…N."""
    below = np.cumsum(pmf)
    low, high = (int(np.searchsorted(below, level * below[-1])) for level in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Expected(float(np.dot(pmf, np.arange(len(pmf)))), low, high)


def said(one: Expected) -> str:
    """Return ``"12.3 (7 to 18)"``."""
    return f"{one.mean:.1f} ({one.low} to {one.high})"
