"""The rounds of the loop: what the network learned, what that saved, how honest it is; and the way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fastapi import APIRouter, Depends, Form, HTTPException, Request
from markupsafe import Markup
from starlette.responses import FileResponse, HTMLResponse, Response

from greenpea.errors import GreenpeaError
from greenpea.records import REPORT, SCORES, Record, Score
from greenpea.site import charts
from greenpea.site.charts import Curve, Level
from greenpea.site.context import Site, link, site_of
from greenpea.site.rounds import Rounds, chance, rounds_of
from greenpea.site.security import protected
from greenpea.site.team import words
from greenpea.site.team.common import Scientist, go, number_of, team_page
from greenpea.store import Subject, Volunteer
from greenpea.tree import DecisionTree

router = APIRouter(prefix="/team/rounds")
SECTION = "/team/rounds"

ROWS = 50  # rounds on a page
POINTS = 120  # of a curve: more would be drawn upon one another
SHOWN = 24  # subjects at either end of the gallery: full rows of two, three, four or six
COLUMNS = ("subject_id", "rank", "score", "probability", "effective_draws")
LEVELS = (0.5, 0.8, 0.9, 0.95)
SHIFT = {"question", "answer", "shift", "p", "votes"}  # what is kept of a difference between streams
DOUBTFUL = 0.05  # streams differ where chance alone would do it more rarely
# A report holds all it shows, styles and pictures, and does nothing.
ALONE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox",
    "Cache-Control": "private, no-cache",
}
T = TypeVar("T")
FORGOTTEN = (
    "The ranks of round {number} are no longer in the database. Where the campaign's folder is, this puts them there "
    "again: greenpea rounds {folder} --rollback {number}"
)


# ---- the page ----------------------------------------------------------------------------------------


@router.get("")
def rounds(request: Request, person: Scientist, before: str = "") -> Response:
    """Every round, newest first, and what they show together."""
    return _page(request, person, before=number_of(before))


@router.get("/{number}/report", response_class=HTMLResponse)
def report(request: Request, person: Scientist, number: str) -> Response:
    """The report that a round left: how far to believe its heads."""
    record = next((one for one in rounds_of(site_of(request).folder).records if str(one.number) == number), None)
    if record is None or not (record.folder / REPORT).is_file():
        raise HTTPException(404, "There is no such round, or it has left no report.")
    return FileResponse(record.folder / REPORT, media_type="text/html", headers=ALONE)


@router.post("/activate", dependencies=[Depends(protected)])
def activate(request: Request, person: Scientist, round: Annotated[str, Form()] = "") -> Response:
    """Let the ranks of an earlier round order the queue again."""
    site = site_of(request)
    record = next((one for one in rounds_of(site.folder).records if str(one.number) == round), None)
    if record is None or record.store_round is None:
        raise HTTPException(404, "There is no such round with ranks.")
    if not any(one.id == record.store_round and one.subjects for one in site.store.rounds.all()):
        return _page(request, person, 409, error=FORGOTTEN.format(number=record.number, folder=site.folder))
    try:
        site.store.rounds.activate(record.store_round, site.clock())
    except GreenpeaError as error:
        return _page(request, person, 409, error=str(error))
    return go(request, SECTION, did="ranked", n=record.number)


def _page(
    request: Request, person: Volunteer, status: int = 200, before: int = 0, error: str | None = None
) -> Response:
    site = site_of(request)
    found, tree = rounds_of(site.folder), site.store.workflows.active().workflow.tree
    ranking = found.by_store_round(site.store.rounds.active())
    listed = [one for one in reversed(found.records) if not before or one.number < before]
    return team_page(
        request,
        "rounds.html",
        person,
        SECTION,
        status,
        error=error,
        found=found,
        rows=[Row.of(one, one is ranking) for one in listed[:ROWS]],
        older=f"{link(request, SECTION)}?before={listed[ROWS - 1].number}" if len(listed) > ROWS else None,
        ranking=ranking,
        active=site.store.rounds.active(),
        returns=returns(site, found),
        figures=figures(found),
        spared=next((one for one in reversed(found.records) if one.saved + one.spent), None),
        questions=questions(found, tree),
        gained=gained,
        streams=streams(found, tree),
        folder=site.folder,
        now=site.clock(),
    )


def returns(site: Site, found: Rounds) -> list[Record]:
    """Return the rounds to whose ranks the queue may return, newest first: the store keeps the newest few."""
    kept = {one.id for one in site.store.rounds.all() if one.subjects and not one.active}
    # A later round that ranked by the same ranks stands for the earlier ones.
    by_store_round = {one.store_round: one for one in found.records if one.store_round in kept}
    return sorted(by_store_round.values(), key=lambda record: -record.number)


# ---- in words ----------------------------------------------------------------------------------------

OUTCOMES = {
    "promoted": ("promoted", "open"),
    "ungated": ("promoted, ungated", "open"),
    "kept": ("kept the incumbent", ""),
    "failed": ("failed", "danger"),
    "idle": ("nothing new", ""),
}
STAGES = {
    "collected": "votes collected",
    "fitted": "heads fitted",
    "gated": "heads compared",
    "scored": "pool scored",
    "published": "ranks published",
    "retired": "subjects retired",
    "judged": "heads judged",
    "finished": "finished",
}


@dataclass(frozen=True)
class Row:
    """One round as a line of the table; ``kind`` is the class of its outcome's tag."""

    record: Record
    ranks: bool
    outcome: str
    kind: str
    retired: Sequence[tuple[str, int]]
    reported: bool  # whether it left a report

    @staticmethod
    def of(record: Record, ranks: bool) -> Row:
        outcome, kind = outcome_of(record)
        reasons = sorted(record.retired.items(), key=lambda item: (-item[1], item[0]))
        retired = [(words.reason(reason), count) for reason, count in reasons]
        return Row(record, ranks, outcome, kind, retired, (record.folder / REPORT).is_file())


def outcome_of(record: Record) -> tuple[str, str]:
    """Return what became of a round, in words, and the class of its tag."""
    if not record.finished:
        done = next((STAGES[stage] for stage in reversed(STAGES) if stage in record.stages), "begun")
        return f"not finished: {done}", "gold"
    if record.gate is None:
        return "finished", ""
    return OUTCOMES.get(record.gate.outcome, (record.gate.outcome, ""))


# ---- the charts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A chart with its heading, what it shows in a sentence, and the key to its lines: (class, words)."""

    title: str
    about: str
    chart: Markup
    key: Sequence[tuple[str, str]]
    head: Sequence[str]
    table: Sequence[Sequence[str]]  # the same numbers as text, newest first


def figures(found: Rounds) -> list[Figure]:
    """Return the charts over all rounds: likelihood, savings, calibration."""
    finished = [one for one in found.records if one.finished]
    scored = [(one, score) for one in finished if (score := one.overall) is not None]
    return [_learning(scored), _savings(finished), _coverage(scored)]


def thinned(values: Sequence[T]) -> list[T]:
    """Return at most `POINTS` of the values, evenly, the first and the last among them."""
    if len(values) <= POINTS:
        return list(values)
    return [values[i * (len(values) - 1) // (POINTS - 1)] for i in range(POINTS)]


def _learning(scored: Sequence[tuple[Record, Score]]) -> Figure:
    shown = thinned([(one, score) for one, score in scored if score.gain is not None])
    loop, random = _by_the_loop(shown), _by_chance(shown)
    key = [
        ("part-0", "all the answers", True),
        ("part-2", "heads that learned from the random stream alone", bool(random.points)),
        ("broken", "not looking at the image", True),
        ("ring", "not promoted: the incumbent stayed", any(loop.hollow)),
    ]
    return Figure(
        "How well votes are predicted",
        "Gain over not looking at the image, in nats per vote of the audit set, against the answers learned from. "
        "Higher is better. The excess does not compare between rounds: it sinks by itself as that set gains votes.",
        charts.curves(
            "learning", "Gain in nats per vote against answers", _learned(shown), [loop, random],
            [Level("not looking at the image", 0.0)] if shown else [], nothing="no round judged yet",
        ),
        [(kind, said) for kind, said, there in key if there and shown],
        ("Round", "Answers", "Gain", "Random answers", "Their gain"),
        [
            (
                str(one.number), f"{one.answers:,}", gained(score.gain), f"{one.random_answers:,}",
                gained(score.random_gain),
            )
            for one, score in reversed(shown)
        ],
    )  # fmt: skip


def _by_the_loop(shown: Sequence[tuple[Record, Score]]) -> Curve:
    return Curve(
        "by the loop",
        [(one.answers, score.gain) for one, score in shown if score.gain is not None],
        [f"round {one.number}: {one.answers:,} answers, {gained(score.gain)} nats" for one, score in shown],
        hollow=[one.gate is not None and one.gate.outcome == "kept" for one, _ in shown],
    )


def _by_chance(shown: Sequence[tuple[Record, Score]]) -> Curve:
    found = sorted((one.random_answers, score.random_gain, one.number)
                   for one, score in shown if score.random_gain is not None)  # fmt: skip
    return Curve(
        "from the random stream alone",
        [(answers, gain) for answers, gain, _ in found],
        [f"round {number}: {answers:,} answers, {gained(gain)} nats" for answers, gain, number in found],
        "part-2",
    )


def _learned(shown: Sequence[tuple[Record, Score]]) -> str:
    if not shown:
        return "No round has been judged on the audit set yet."
    last, score = shown[-1]
    told = f"With {last.answers:,} answers {gained(score.gain)} nats per vote over not looking at the image."
    if score.random_gain is None:
        return told
    return f"{told} Heads from {last.random_answers:,} answers of the random stream alone: {gained(score.random_gain)}."


def gained(value: float | None) -> str:
    """Return a gain in nats to three places, or a dash where it is not known."""
    return "–" if value is None else f"{value:.3f}"


def _savings(finished: Sequence[Record]) -> Figure:
    shown = thinned([one for one in finished if one.saved + one.spent])
    curve = Curve(
        "saved",
        [(one.classifications, 100 * one.saved / (one.saved + one.spent)) for one in shown],
        [f"round {one.number}: {one.saved:,} of {one.saved + one.spent:,}" for one in shown],
    )
    told = "No subject has retired yet."
    if shown:
        last = shown[-1]
        total = last.saved + last.spent
        told = f"{words.percent(last.saved, total)} saved: {last.saved:,} of {total:,} classifications."
    return Figure(
        "Classifications saved",
        "Percent of the full limit that retired subjects did not need, against the classifications counted.",
        charts.curves(
            "savings", "Percent of classifications saved", told, [curve], marks=(0, 25, 50, 75, 100),
            nothing="no subject retired yet",
        ),
        [],
        ("Round", "Classifications", "Saved", "Spent on the same subjects", "Share saved"),
        [
            (
                str(one.number), f"{one.classifications:,}", f"{one.saved:,}", f"{one.spent:,}",
                words.percent(one.saved, one.saved + one.spent),
            )
            for one in reversed(shown)
        ],
    )  # fmt: skip


def _coverage(scored: Sequence[tuple[Record, Score]]) -> Figure:
    shown = thinned(scored)
    least = min((100 * share for _, score in shown for level in LEVELS if isfinite(share := _held(score, level))),
                default=50.0)  # fmt: skip
    levels = [Level(f"nominal: {100 * level:g} %", 100 * level, f"part-{i}") for i, level in enumerate(LEVELS)]
    return Figure(
        "Calibration",
        "Percent of the audit set's votes within the sets that should hold 50, 80, 90 and 95 %, round by round. "
        "Below its broken line, the network is surer than it should be.",
        charts.curves(
            "coverage", "Coverage in percent, round by round", _covered(shown),
            [_held_over_rounds(shown, level, f"part-{i}") for i, level in enumerate(LEVELS)], levels,
            marks=(min(40.0, least // 10 * 10), *(100 * level for level in LEVELS), 100.0),
            nothing="no round judged yet",
        ),
        [(f"part-{i}", f"{100 * level:g} %") for i, level in enumerate(LEVELS) if shown],
        ("Round", *(f"{100 * level:g} %" for level in LEVELS)),
        [(str(one.number), *(percents(_held(score, level)) for level in LEVELS)) for one, score in reversed(shown)],
    )  # fmt: skip


def _held_over_rounds(shown: Sequence[tuple[Record, Score]], level: float, kind: str) -> Curve:
    return Curve(
        f"{100 * level:g} %",
        [(one.number, 100 * _held(score, level)) for one, score in shown],
        [f"round {one.number}: {percents(_held(score, level))} in the {100 * level:g} % sets" for one, score in shown],
        kind,
    )


def _covered(shown: Sequence[tuple[Record, Score]]) -> str:
    if not shown:
        return "No round has been judged on the audit set yet."
    parts = [f"{percents(_held(shown[-1][1], level))} of votes in the {100 * level:g} % sets" for level in LEVELS]
    return f"In the last round {', '.join(parts)}."


def percents(share: float) -> str:
    """Return a share to a tenth of a percent, or a dash where it is not known."""
    return f"{100 * share:.1f} %" if isfinite(share) else "–"


def _held(score: Score, level: float) -> float:
    """Return the share of votes within the sets of a level; not a number where the round did not say."""
    return float(score.coverage.get(f"{level:g}", nan))


# ---- by question -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QuestionScore:
    """How one question is predicted, beside how it was when first judged. ``label`` is the question in words."""

    label: str
    score: Score
    first: Score | None
    coverage: Sequence[tuple[str, str]]


def questions(found: Rounds, tree: DecisionTree) -> tuple[Record, list[QuestionScore]] | None:
    """Return the newest round that was judged, and its scores question by question; None where there is none."""
    judged = [one for one in found.records if one.finished and one.scores]
    if not judged:
        return None
    first = {score.question: score for score in judged[0].scores}
    rows = [
        QuestionScore(
            tree[score.question].label() if score.question in tree else score.question,
            score,
            first.get(score.question) if len(judged) > 1 else None,
            [(f"{100 * level:g} %", percents(_held(score, level))) for level in LEVELS],
        )
        for score in judged[-1].scores
        if score.question is not None
    ]
    return judged[-1], rows


# ---- by stream ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shift:
    """How much more often an answer is given to subjects chosen by rank than to the same ones chosen at random."""

    question: str
    answer: str
    shift: float  # of the vote fraction
    p: float  # chance of so much where people answer alike, however many answers were compared
    votes: tuple[int, int]  # by rank, at random


@dataclass(frozen=True)
class Streams:
    """Whether people answer alike by rank and at random: of ``compared`` answers, those that differ most."""

    number: int  # of the round
    compared: int
    shifts: Sequence[Shift]
    skipped: str | None  # why they were not compared

    @property
    def differ(self) -> bool:
        return any(one.p < DOUBTFUL for one in self.shifts)


def streams(found: Rounds, tree: DecisionTree) -> Streams | None:
    """Return what the newest finished round found; None where none has looked. Odd entries are left out."""
    record = next((one for one in reversed(found.records) if one.finished and one.streams), None)
    if record is None:
        return None
    kept = record.streams
    shifts = [_shift(one, tree) for one in kept.get("differences", ()) if SHIFT.issubset(one)]
    return Streams(record.number, int(kept.get("compared", 0)), shifts, kept.get("skipped"))


def _shift(kept: Mapping[str, Any], tree: DecisionTree) -> Shift:
    slug, answer = kept["question"], kept["answer"]
    known = slug in tree and answer in tree[slug].answer_slugs
    question, said = (tree[slug].label(), tree[slug].answer(answer).label()) if known else (slug, answer)
    first, second = kept["votes"]
    return Shift(question, said, kept["shift"], kept["p"], (first, second))


# ---- the gallery -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranked:
    """A subject with its place in a round's ranking. ``score`` is in nats; ``effective_draws`` None: not told."""

    subject: Subject
    rank: int
    score: float
    probability: float | None
    effective_draws: float | None


@router.get("/gallery")
def gallery(request: Request, person: Scientist) -> Response:
    """The subjects whose answers would teach the newest round's network most, and those that would least."""
    site = site_of(request)
    record, most, least, error, total = rounds_of(site.folder).newest_scored, [], [], None, 0
    if record is not None:
        try:
            best, worst, total = ends(record.folder / SCORES, SHOWN)
            most, least = _subjects(site, best), _subjects(site, worst)
        except GreenpeaError as fault:
            error = str(fault)
    return team_page(
        request,
        "gallery.html",
        person,
        SECTION,
        error=error,
        record=record,
        ends=[("Most informative", most), ("Least informative", least)],
        total=total,
        chance=chance_in_words,
        nats=nats,
        limit=site.store.workflows.active().workflow.limit,
    )


def ends(path: Path, count: int) -> tuple[pa.Table, pa.Table, int]:
    """Return a round's subjects of the highest and of the lowest scores, and how many it ranked.

    The file stands in the order of the queue, which is drawn with some luck and so is not that of the scores. The two
    never share a subject. Raises GreenpeaError naming the file.
    """
    table = _scores(path)
    order = np.argsort(-table["score"].to_numpy(), kind="stable")
    worst = order[max(count, len(order) - count) :][::-1]
    return table.take(order[:count]), table.take(worst), len(order)


def _scores(path: Path, only: pc.Expression | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(COLUMNS), filters=only)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise GreenpeaError(f"{path} cannot be read ({error}): move the round's folder away") from error


def _subjects(site: Site, rows: pa.Table) -> list[Ranked]:
    found = ((site.store.subjects.get(row["subject_id"]), row) for row in rows.to_pylist())
    return [_ranked(subject, row) for subject, row in found if subject is not None]


def _ranked(subject: Subject, row: Mapping[str, object]) -> Ranked:
    def number(name: str) -> float | None:
        value = row[name]
        return float(value) if isinstance(value, int | float) else None

    return Ranked(
        subject, int(number("rank") or 0), number("score") or 0.0, number("probability"), number("effective_draws")
    )


def place_of(found: Rounds, subject: Subject) -> tuple[Record, Ranked] | None:
    """Return where a subject stands in the newest scored round, or None. Raises GreenpeaError naming the file."""
    record = found.newest_scored
    if record is None:
        return None
    rows = _scores(record.folder / SCORES, pc.field("subject_id") == subject.subject_id)
    return (record, _ranked(subject, rows.to_pylist()[0])) if rows.num_rows else None


def nats(score: float) -> str:
    """Return a score to three figures, without an exponent where a person can read it."""
    return f"{score:.3g}" if abs(score) >= 0.0001 or not score else f"{score:.1e}"


def chance_in_words(probability: float) -> str:
    """Return a probability of selection in words: 12 %, 1 in 3,200."""
    text, places = chance(probability)
    return text.format(**places)
