"""How many volunteers, how many weeks: a survey's plan, from a rehearsal of its workflow and a flow of volunteers.

Two steps. A rehearsal on a sample of the subjects (`greenpea.rehearsal`) tells how many classifications a subject
takes under the workflow's own rules. Then the flow of volunteers (`Habits`) is simulated many times for several
rates of arrival, until it has brought as many classifications as the whole survey takes.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import ValidationError

from greenpea import plots, records, simulate
from greenpea.errors import GreenpeaError, did_you_mean
from greenpea.rehearsal import FromTruth, Habits, Visits, cohort, rehearse, truth_in
from greenpea.settings import Settings
from greenpea.site.opening import DATABASE, STORE, open_store
from greenpea.store import NewSubject, Store
from greenpea.subjects import SubjectSet
from greenpea.tree import DecisionTree
from greenpea.votes import Votes, read_votes
from greenpea.workflow import Workflow

SETTINGS, WORKFLOW, VOTES, TRUTH = "campaign.toml", "workflow.json", "votes.parquet", "truth.parquet"
RATES = (30.0, 100.0, 300.0, 1000.0, 3000.0)  # new volunteers a week
SAMPLE = 200  # subjects rehearsed
FUTURES = 100  # simulated flows per rate
MOST_VOLUNTEERS = 4000  # of one flow; a larger survey is scaled down
LONGEST = 20 * 365.25  # days looked ahead
LEVEL = 0.9  # share of the futures an interval holds
SMOOTHING = 2.0  # votes' worth of the mean fractions, added to each subject's
Report = Callable[[str, float, str], None]


@dataclass(frozen=True)
class Need:
    """Classifications a subject takes: between ``low`` and ``high``; ``how`` it is known, in words."""

    low: float
    high: float
    how: str
    reasons: Mapping[str, int]  # of the rehearsed or retired subjects

    @property
    def mean(self) -> float:
        return (self.low + self.high) / 2


@dataclass(frozen=True)
class Interval:
    """The median of the futures, and the range that holds `LEVEL` of them; inf: not within `LONGEST`."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Outlook:
    """What comes of a rate of arrival."""

    per_week: float  # new volunteers
    weeks: Interval
    volunteers: Interval  # who came, in all


@dataclass(frozen=True)
class Plan:
    """The answer, with everything it assumes."""

    subjects: int
    done: int  # classifications the site has already
    votes_alone: Need
    with_network: Need | None  # None: no round has retired anything yet
    outlooks: Mapping[str, tuple[Outlook, ...]]  # "votes alone", "with the network"
    habits: Habits
    sample: int
    truth: str  # what the rehearsed volunteers answer from, in words
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values; what lies beyond `LONGEST` is None."""
        values = dataclasses.asdict(self) | {"habits": self.habits.model_dump()}
        plain: dict[str, Any] = _finite(values)
        return plain


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def habits_of(chosen: Iterable[str]) -> Habits:
    """Return habits with ``"once=0.6"`` overrides applied. Raises GreenpeaError naming the key and the remedy."""
    values: dict[str, str] = {}
    for one in chosen:
        key, equals, text = (part.strip() for part in one.partition("="))
        if key not in Habits.model_fields:
            known = did_you_mean(key, Habits.model_fields)
            raise GreenpeaError(f"--set {one!r}: there is no assumption {key!r}{known}")
        if key == "arrivals":
            raise GreenpeaError(f"--set {one!r}: give the numbers of new volunteers a week to compare as --volunteers")
        if not equals:
            raise GreenpeaError(f"--set {one!r}: write {key}=NUMBER")
        values[key] = text
    try:
        return Habits.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        raise GreenpeaError(f"--set {fault['loc'][0]}={fault['input']}: {fault['msg']}") from error


def plan(
    folder: Path,
    habits: Habits,
    rates: Sequence[float] = RATES,
    sample: int = SAMPLE,
    seed: int = 0,
    report: Report = lambda stage, share, words: None,
) -> Plan:
    """Plan the campaign in ``folder``. ``rates`` are new volunteers a week. Raises GreenpeaError without a 'count'."""
    settings, workflow = Settings.load(folder / SETTINGS), Workflow.load(folder / WORKFLOW)
    if workflow.limit is None:
        raise GreenpeaError(
            f"{folder / WORKFLOW}: without a rule 'count' nobody can say when a subject is done: add "
            f'{{"rule": "count", "classifications": 40}} to "retirement"'
        )
    ids = SubjectSet.load(folder).subject_ids
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(len(ids))[:sample])
    voted, done = _site(folder)
    truth, words = _truth(folder, workflow.tree, ids[some], voted, rng)
    alone = rehearsed(workflow, truth, ids[some], habits, settings.site.whole_share, seed, report)
    network = from_rounds(records.every(folder), workflow.limit, len(ids))
    outlooks: dict[str, tuple[Outlook, ...]] = {}
    for name, need in {"votes alone": alone, "with the network": network}.items():
        if need is not None:
            outlooks[name] = tuple(_outlooks(need, len(ids), done, habits, rates, rng, name, report))
    return Plan(len(ids), done, alone, network, outlooks, habits, len(some), words, seed)


# ---- what a subject takes ----------------------------------------------------------------------------


def rehearsed(
    workflow: Workflow,
    truth: Mapping[str, np.ndarray],
    subject_ids: Sequence[str] | np.ndarray,
    habits: Habits,
    whole_share: float,
    seed: int,
    report: Report,
) -> Need:
    """Let volunteers classify these subjects until all have retired; return the mean with its 95 % interval."""
    start = datetime(2000, 1, 1, tzinfo=UTC)
    # The fractions are a crowd's: whoever answers from them has made all their mistakes already.
    crowd = simulate.Volunteers(np.ones(1), np.ones(1), seed)
    answers = FromTruth(truth, subject_ids, workflow.tree, crowd)
    with tempfile.TemporaryDirectory(prefix="greenpea-plan-") as place:
        store = Store.open(Path(place) / STORE)
        store.workflows.publish(workflow, start)
        store.subjects.add((NewSubject(str(one), ("",)) for one in subject_ids), start, whole_share)
        report("rehearsing", 0.0, "")
        for progress in rehearse(store, answers, _busy(habits), seed, start, block=250):
            words = f"{progress.classifications:,} classifications, {progress.retired:,} subjects retired"
            report("rehearsing", progress.classifications / (len(subject_ids) * (workflow.limit or 1)), words)
        counts = np.array([number for _, number, _ in store.classifications.tallies()], float)
        reasons = dict(store.statistics.overview(progress.now).by_reason)
        store.close()
    error = 1.96 * float(counts.std()) / math.sqrt(len(counts))
    how = f"a rehearsal on {len(counts):,} of the subjects, under the workflow's rules, by votes alone"
    return Need(max(1.0, float(counts.mean()) - error), float(counts.mean()) + error, how, reasons)


def _busy(habits: Habits) -> Habits:
    """Return habits with somebody coming: what a subject takes does not depend on how many come a day."""
    return habits.model_copy(update={"arrivals": max(habits.arrivals, 1.0)})


def from_rounds(rounds: Sequence[records.Record], limit: int, subjects: int) -> Need | None:
    """Return what a subject takes with the network, from the campaign's own rounds; None where none has retired any.

    At least as many as the retired ones took; at most so, if all others went to the full limit: those retired
    first are the easy ones.
    """
    known = [one for one in rounds if one.finished and one.saved + one.spent > 0]
    if not known:
        return None
    last = known[-1]
    share = last.spent / (last.saved + last.spent)
    retired = min(1.0, (last.saved + last.spent) / limit / subjects)
    how = (
        f"round {last.number} of this campaign: {last.spent:,} classifications on the {retired:.0%} of the subjects "
        f"retired so far, instead of {last.saved + last.spent:,}; at most, if all others took the full {limit}"
    )
    return Need(share * limit, limit * (retired * share + 1 - retired), how, dict(last.retired))


def _site(folder: Path) -> tuple[Votes | None, int]:
    """Return the votes that the site has counted, if there are any, and how many classifications."""
    if not ((folder / STORE).is_file() or os.environ.get(DATABASE)):
        return None, 0
    store = open_store(folder)
    done = store.statistics.overview(datetime.now(UTC)).counted if store.workflows.all() else 0
    votes = store.classifications.votes() if done else None
    store.close()
    return votes, done


def _truth(
    folder: Path, tree: DecisionTree, subject_ids: np.ndarray, voted: Votes | None, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], str]:
    """Return the fractions that rehearsed volunteers answer from, and in words where they come from."""
    if (folder / TRUTH).is_file():
        return truth_in(folder / TRUTH, tree, subject_ids), "the simulated truth of these subjects"
    if voted is None and (folder / VOTES).is_file():
        voted = read_votes(folder / VOTES, tree)
    if voted is not None and voted.total.any():
        cast = voted.select(np.flatnonzero(voted.total > 0))
        own = np.isin(subject_ids, cast.subject_ids)
        rows = np.where(own, 0, rng.integers(0, len(cast), len(subject_ids)))
        place = {subject: row for row, subject in enumerate(cast.subject_ids)}
        rows[own] = [place[subject] for subject in np.asarray(subject_ids)[own]]
        fractions = {slug: smoothed(cast, slug)[rows] for slug in tree.slugs}
        return fractions, f"the votes on {len(cast):,} subjects (for those without, of others drawn at random)"
    drawn = {
        question.slug: rng.beta(0.5, 2.0, (len(subject_ids), len(question.answers)))
        if question.kind == "multiple"
        else rng.dirichlet(np.full(len(question.answers), 0.5), len(subject_ids))
        for question in tree.questions
    }
    return drawn, "fractions at random, since there are no votes yet: a guess, to be repeated with the first votes"


def smoothed(votes: Votes, slug: str) -> Float[np.ndarray, "subject answer"]:
    """Return (k + c·m)/(n + c): fractions drawn towards the mean m of all subjects by c = `SMOOTHING` votes."""
    counts, reached = votes.counts[slug], votes.reached[slug][:, None]
    answers = counts.shape[1]
    mean = (counts.sum(axis=0) + 1) / (reached.sum() + (answers if votes.tree[slug].kind == "single" else 2))
    return np.asarray((counts + SMOOTHING * mean) / (reached + SMOOTHING))


# ---- how long it takes -------------------------------------------------------------------------------


def _outlooks(
    need: Need,
    subjects: int,
    done: int,
    habits: Habits,
    rates: Sequence[float],
    rng: np.random.Generator,
    name: str,
    report: Report,
) -> Iterable[Outlook]:
    for number, per_week in enumerate(rates):
        report(f"volunteers, {name}", number / len(rates), f"{per_week:,.0f} new ones a week")
        totals = np.maximum(0, rng.uniform(need.low, need.high, FUTURES) * subjects - done)
        coming = habits.model_copy(update={"arrivals": per_week / 7})
        days, volunteers = np.array([until(coming, float(total), subjects, rng) for total in totals]).T
        yield Outlook(per_week, _interval(days / 7), _interval(volunteers))


def _interval(values: np.ndarray) -> Interval:
    tail = (1 - LEVEL) / 2
    low, middle, high = np.quantile(values, [tail, 0.5, 1 - tail], method="nearest").tolist()
    return Interval(low, middle, high)


def until(habits: Habits, total: float, subjects: int, rng: np.random.Generator) -> tuple[float, float]:
    """Simulate one flow; return the days until ``total`` classifications are there, and the volunteers by then.

    Nobody classifies a subject twice, so nobody makes more than ``subjects``. A flow of more than
    `MOST_VOLUNTEERS` is thinned with its total by the same factor: its chance is then exaggerated, its mean kept.
    Infinite where `LONGEST` does not suffice.
    """
    if total <= 0:
        return 0.0, 0.0
    each = min(habits.mean_classifications, subjects)
    factor = max(1.0, total / each / MOST_VOLUNTEERS)
    thinned = habits.model_copy(update={"arrivals": habits.arrivals / factor, "launch": habits.launch / factor})
    horizon = 1.5 * total / factor / each / max(thinned.arrivals, 1e-9) + 4 * habits.gap
    while True:
        horizon = min(horizon, LONGEST)
        flow = cohort(thinned, 0.0, horizon, rng)
        made = _capped(flow, subjects)
        order = np.argsort(flow.day, kind="stable")
        order = order[flow.day[order] < horizon]
        reached = int(np.searchsorted(np.cumsum(made[order]), total / factor))
        if reached < len(order):
            people = len(np.unique(flow.volunteer[order[: reached + 1]]))
            return float(flow.day[order[reached]]), factor * people
        if horizon >= LONGEST:
            return math.inf, math.inf
        horizon *= 2


def _capped(flow: Visits, most: int) -> Float[np.ndarray, " visit"]:
    """Return the classifications of each visit, where nobody makes more than ``most`` in all."""
    running = np.cumsum(flow.wanted)
    first = np.searchsorted(flow.volunteer, flow.volunteer)
    before = (running - flow.wanted)[first] if len(first) else running
    own = running - before
    return np.minimum(own, most) - np.minimum(own - flow.wanted, most)


# ---- the picture -------------------------------------------------------------------------------------

COLOURS = {"votes alone": plots.ORANGE, "with the network": plots.GREEN}
MARKS = {
    1 / 7: "a day",
    1.0: "a week",
    4.35: "a month",
    13.0: "3 months",
    26.0: "half a year",
    52.0: "a year",
    104.0: "2 years",
    260.0: "5 years",
}


def picture(made: Plan) -> Figure:
    """Draw weeks against new volunteers a week, with the range that holds 90 % of the futures."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    known = {name: [one for one in lines if math.isfinite(one.weeks.high)] for name, lines in made.outlooks.items()}
    for name, lines in known.items():
        _line(axes, lines, COLOURS[name], below=name != "votes alone")
        if lines:
            words, place = name, (lines[-1].per_week, lines[-1].weeks.middle)
            axes.annotate(words, place, (9, 0), textcoords="offset points", va="center", color=COLOURS[name])
    axes.set(xscale="log", yscale="log")
    rates = [one.per_week for one in next(iter(made.outlooks.values()))]
    axes.set_xlim(0.5 * min(rates), 1.35 * max(rates))
    axes.set_xticks(rates)
    axes.minorticks_off()
    plots.style(axes, "new volunteers a week", "until every subject is done")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _mark_times(axes, [one.weeks for lines in known.values() for one in lines])
    axes.set_title(f"{made.subjects:,} subjects: how long it takes", color=plots.INK, fontsize=12, loc="left")
    return figure


def _line(axes: Axes, lines: Sequence[Outlook], colour: str, below: bool) -> None:
    x = [one.per_week for one in lines]
    low, middle, high = ([getattr(one.weeks, name) for one in lines] for name in ("low", "middle", "high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, middle, color=colour, linewidth=2, marker="o", markersize=5)
    for one in lines:
        words = f"{rounded(one.volunteers.middle)} people"
        place, apart, side = ((one.per_week, one.weeks.high), (4, 6), "left")
        if below:
            place, apart, side = ((one.per_week, one.weeks.low), (-4, -12), "right")
        axes.annotate(words, place, apart, textcoords="offset points", ha=side, fontsize=8, color=plots.MUTED)


def _mark_times(axes: Axes, shown: Sequence[Interval]) -> None:
    """Let the axis speak of days, months and years."""
    if shown:
        axes.set_ylim(0.6 * min(one.low for one in shown), 2.2 * max(one.high for one in shown))
    low, high = axes.get_ylim()
    marks = {weeks: words for weeks, words in MARKS.items() if low <= weeks <= high}
    axes.set_yticks(list(marks), list(marks.values()), color=plots.INK)


def rounded(value: float) -> str:
    """Return a number as one would say it: two figures, thousands parted."""
    if not math.isfinite(value):
        return "–"
    if value < 10:
        return f"{value:.1f}"
    digits = math.floor(math.log10(value)) - 1
    return f"{round(value, -digits):,.0f}"
