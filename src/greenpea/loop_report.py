"""The report of the demonstration's loop: one HTML file that needs nothing else, in words for a newcomer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from greenpea import plots
from greenpea import report as reports
from greenpea.demo import Learned, Outcome
from greenpea.files import replacing
from greenpea.records import Record
from greenpea.tree import DecisionTree

QUIETLY = {"votes": plots.DRAW, "combined": plots.GREEN, "full": plots.ORANGE}
OF = {"votes": "votes, without the network", "combined": "votes and network", "full": "the full number of votes"}
VERDICTS = {
    "promoted": "took over",
    "ungated": "took over, ungated",
    "kept": "the last one stays",
    "failed": "failed",
    "idle": "nothing new",
}


def write(outcome: Outcome, folder: Path, tree: DecisionTree, out: Path) -> Path:
    """Write the report on the demonstration in ``folder`` to ``out``, and return that."""
    learned = {one.round: one for one in outcome.learned}
    page = reports.templates().get_template("loop.html")
    html = page.render(
        title=folder.resolve().name,
        limit=outcome.scale.limit,
        numbers=_numbers(outcome),
        headline=headline(outcome),
        story=_story(outcome),
        learning={"picture": reports.embedded(learning(outcome.learned), _learning_in_words(outcome.learned))},
        judges=outcome.judges,
        savings=_savings(outcome),
        accuracy={"picture": reports.embedded(accuracy(outcome, tree), _accuracy_in_words(outcome))},
        gallery={
            "round": outcome.ranked_by,
            "most": [_thumbnail(folder, *one) for one in outcome.most],
            "least": [_thumbnail(folder, *one) for one in outcome.least],
        },
        rounds=[_row(one, learned.get(one.number)) for one in outcome.rounds],
    )
    with replacing(out) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return out


# ---- words -------------------------------------------------------------------------------------------


def headline(outcome: Outcome) -> dict[str, str]:
    """Say in plain words what came of it; ``verdict`` is "better" where votes were saved at no loss worth naming."""
    used, overview = outcome.overview.counted, outcome.overview
    share, done = used / outcome.full, overview.retired / overview.subjects
    combined, full = outcome.overall.get("combined", math.nan), outcome.overall["full"]
    if overview.retired == overview.subjects:
        saved = f"All {overview.subjects:,} galaxies are done, with {_whole(share)} of the votes"
    else:
        saved = f"{_whole(done)} of the {overview.subjects:,} galaxies are done, with {_whole(share)} of the votes"
    words = (
        f"Votes and network together name the right answer in {_cent(combined)} of the cases; the same votes without "
        f"the network in {_cent(outcome.overall['votes'])}; {outcome.scale.limit} votes on every galaxy would in "
        f"{_cent(full)}."
    )
    return {
        "verdict": "better" if share < 1 and combined >= full - 0.01 else "no-better",
        "saved": f"{saved} that asking {outcome.scale.limit} volunteers about each would take.{_each(outcome)}",
        "accuracy": words,
        "learning": _learned(outcome.learned),
    }


def _each(outcome: Outcome) -> str:
    """Say what the retired subjects took; the audit set, which always takes all, is not among them."""
    last = outcome.rounds[-1] if outcome.rounds else None
    if last is None or not last.saved + last.spent:
        return ""
    took = outcome.scale.limit * last.spent / (last.saved + last.spent)
    return f" Those that are done took {took:.1f} classifications each, on average."


def _whole(share: float) -> str:
    return f"{100 * share:.0f} %"


def _cent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f} %"


def _learned(learned: Sequence[Learned]) -> str:
    found = _by_the_loop(learned)
    if not found:
        return ""
    (first, early), (last, late) = found[0], found[-1]
    words = (
        f"About a galaxy it never learned from, the network foretells a volunteer's answer better than not looking at "
        f"the image would: by {late:.3f} nats per vote once it has learned from {last:,} answers"
        f"{f', by {early:.3f} from the first {first:,}' if len(found) > 1 else ''}."
    )
    if late <= 0:
        return (
            f"About a galaxy it never learned from, the network is no better than not looking at the image so far "
            f"({late:+.3f} nats per vote, from {last:,} answers): it needs more votes, or another encoder."
        )
    return f"{words}{_beside_chance(learned)}"


def _beside_chance(learned: Sequence[Learned]) -> str:
    """Compare with chance at as many answers as that had, read off between two rounds."""
    found, control = _by_the_loop(learned), _by_chance(learned)
    if not control or not found[0][0] <= control[-1][0] <= found[-1][0]:
        return ""
    answers, gain = control[-1]
    chosen = float(np.interp(answers, [x for x, _ in found], [y for _, y in found]))
    return f" From {answers:,} answers: {chosen:.3f} as the loop asked for them, {gain:.3f} where chance did."


def _numbers(outcome: Outcome) -> list[dict[str, str]]:
    overview = outcome.overview
    return [
        {"value": f"{overview.counted:,}", "words": f"classifications by {overview.volunteers:,} simulated volunteers"},
        {"value": _whole(overview.counted / outcome.full), "words": f"of the {outcome.full:,} of a full count"},
        {"value": f"{overview.retired:,}", "words": f"of {overview.subjects:,} galaxies done"},
        {"value": _cent(outcome.overall.get("combined", math.nan)), "words": "of the leading answers right"},
        {"value": f"{len(outcome.rounds)}", "words": f"rounds of learning, in {outcome.seconds / 60:.1f} minutes"},
    ]


def _story(outcome: Outcome) -> dict[str, str]:
    overview, rounds = outcome.overview, outcome.rounds
    seconds = [_seconds(one) for one in rounds]
    return {
        "volunteers": (
            f"{overview.volunteers:,} simulated volunteers, each with their own skill, came to a real web site and "
            f"classified through its programming interface. Most stayed for a few galaxies, a few for hundreds; about "
            f"one in twenty-five clicked without looking. Nobody was shown a galaxy twice, or what the network thinks."
        ),
        "rounds": (
            f"Meanwhile {len(rounds)} rounds went by, {np.median(seconds) if seconds else 0:.0f} seconds each: the "
            f"network learned from all votes so far, and sorted the galaxies by what the next votes would teach it. "
            f"Of every ten galaxies shown, about seven came from the top of that list; the others came by chance, so "
            f"that the two can be compared."
        ),
        "retired": (
            "A galaxy retired as soon as votes and network together left little to find out, and at the latest after "
            f"{outcome.scale.limit} classifications. The true answers, which only a simulation has, were looked up at "
            f"the end and not before."
        ),
    }


def _seconds(record: Record) -> float:
    last = max(record.stages.values(), default=record.begun_at)
    return (last - record.begun_at).total_seconds()


def _row(record: Record, learned: Learned | None) -> dict[str, Any]:
    score = record.overall
    return {
        "number": record.number,
        "classifications": record.classifications,
        "answers": record.answers,
        "gain": _known(learned.gain if learned else None),
        "random": _known(learned.random_gain if learned else None),
        "coverage": score.coverage.get("0.9", math.nan) if score else math.nan,
        "verdict": VERDICTS[record.gate.outcome] if record.gate else "–",
        "retired": sum(record.retired.values()),
        "seconds": _seconds(record),
    }


def _known(gain: float | None) -> float:
    return math.nan if gain is None else gain


def _thumbnail(folder: Path, subject_id: str, votes: int) -> dict[str, str]:
    with Image.open(folder / "images" / f"{subject_id}.png") as picture:
        pixels = np.moveaxis(np.asarray(picture.convert("RGB")), 2, 0)
    words = f"{votes} classification{'' if votes == 1 else 's'} so far"
    return {"id": subject_id, "png": reports.as_png(pixels), "votes": words}


# ---- pictures ----------------------------------------------------------------------------------------


def learning(learned: Sequence[Learned]) -> Figure:
    """Draw what heads gain over not looking against answers: of all votes, and of the random stream alone."""
    figure, axes = _axes("answers learned from", "gain over not looking, nats per vote")
    points, control = _by_the_loop(learned), _by_chance(learned)
    for found, colour, label in ((control, plots.DRAW, "random votes alone"), (points, plots.GREEN, "all votes")):
        if found:
            axes.plot(*zip(*found, strict=True), color=colour, marker="o", markersize=4.5, linewidth=2, label=label)
    if points or control:
        lowest, highest = min(gains := [gain for _, gain in (*points, *control)]), max(gains)
        if lowest <= highest / 2:
            axes.axhline(0, color=plots.ORANGE, linewidth=1.2, linestyle=(0, (4, 2)), label="not looking")
            axes.set_ylim(1.1 * min(0.0, lowest), 1.1 * max(0.01, highest))
        figure.legend(loc="outside upper center", ncols=3, fontsize=8, labelcolor=plots.INK, frameon=False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure


def _by_the_loop(learned: Sequence[Learned]) -> list[tuple[int, float]]:
    return [(one.answers, one.gain) for one in learned if one.gain is not None]


def _by_chance(learned: Sequence[Learned]) -> list[tuple[int, float]]:
    return [(one.random_answers, one.random_gain) for one in learned if one.random_gain is not None]


def _learning_in_words(learned: Sequence[Learned]) -> str:
    return f"Gain in nats per vote against answers, {len(learned)} rounds. {_learned(learned)}"


def _savings(outcome: Outcome) -> dict[str, Any]:
    overview = outcome.overview
    alt = f"Share of galaxies done against classifications: {overview.retired:,} after {overview.counted:,}."
    by_reason = sorted(overview.by_reason.items(), key=lambda pair: -pair[1])
    return {"picture": reports.embedded(savings(outcome), alt), "reasons": by_reason}


def savings(outcome: Outcome) -> Figure:
    """Draw the share of subjects retired against classifications, and how the full limit alone would go."""
    figure, axes = _axes("classifications", "galaxies done")
    overview, limit = outcome.overview, outcome.scale.limit
    done = [(one.classifications, (one.saved + one.spent) / limit / overview.subjects) for one in outcome.rounds]
    points = [(0, 0.0), *done, (overview.counted, overview.retired / overview.subjects)]
    axes.plot([0, outcome.full], [0, 1], color=plots.ORANGE, linewidth=1.4, linestyle=(0, (4, 2)))
    axes.text(0.6 * outcome.full, 0.52, f"{limit} votes on each", color=plots.ORANGE, fontsize=8.5)
    axes.plot(*zip(*points, strict=True), color=plots.GREEN, marker="o", markersize=4.5, linewidth=2)
    axes.set(xlim=(0, 1.03 * outcome.full), ylim=(0, 1.05))
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure


def accuracy(outcome: Outcome, tree: DecisionTree) -> Figure:
    """Draw, per question, the share of right leading answers: votes alone, votes and network, the full number."""
    rows: list[tuple[str, Mapping[str, float]]] = [("all questions", outcome.overall)]
    rows += [(slug, outcome.accuracy[slug]) for slug in tree.topological_order if slug in outcome.accuracy]
    figure = Figure(figsize=(4.8, 0.9 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for how, colour in QUIETLY.items():
        some = [(shares[how], len(rows) - place) for place, (_, shares) in enumerate(rows) if how in shares]
        if some:
            marker = "D" if how == "full" else "o"
            x, y = zip(*some, strict=True)
            axes.scatter(x, y, color=colour, marker=marker, s=26, label=OF[how], zorder=3)
    plots.style(axes, "leading answers right", grid="x")
    axes.set_yticks(range(len(rows), 0, -1), [name for name, _ in rows], parse_math=False, color=plots.INK)
    axes.set_ylim(0.4, len(rows) + 0.6)
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    figure.legend(loc="outside upper center", ncols=1, fontsize=8, labelcolor=plots.INK, frameon=False)
    return figure


def _accuracy_in_words(outcome: Outcome) -> str:
    return "Leading answers right: " + ", ".join(f"{OF[how]} {_cent(share)}" for how, share in outcome.overall.items())


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.8, 3.1), layout="constrained")
    axes = figure.subplots()
    plots.style(axes, x, y)
    return figure, axes
