"""The report of an evaluation: one HTML file that needs nothing else, and the same figures for scripts.

Whatever the numbers are, the first words say: better than not looking at the image or not, calibrated or not.
Subject ids and labels are strangers' words: the templates escape everything.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Num
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from greenpea import doubts, plots
from greenpea.calibration import Evaluation, Interval, Score, log_floor, reliability
from greenpea.files import replacing
from greenpea.information import Information, saturated
from greenpea.posterior import Posterior
from greenpea.votes import Votes

FEWEST = 10  # subjects below which a bootstrap interval, and so any verdict, means nothing
EACH = 2  # subjects of each kind in the gallery
THUMBNAILS = 6  # most and least informative subjects shown
SPREADS = 4  # answers whose predicted fractions are drawn against the observed
WIDEST = 288  # pixels a side of the images shown
DOUBTED = 1000  # subjects over which the kinds of doubt are averaged
LISTED = 200  # unreadable images listed one by one


class Judged(Protocol):
    """What an evaluation brings along; all of the same subjects, in the same order."""

    @property
    def evaluation(self) -> Evaluation: ...
    @property
    def posterior(self) -> Posterior: ...
    @property
    def votes(self) -> Votes: ...
    @property
    def how(self) -> str:
        """Which votes these are, in words."""

    @property
    def left_out(self) -> int:
        """Subjects with votes that were not judged."""


def write(
    judged: Judged,
    out: Path,
    images: Num[np.ndarray, "subject channel y x"],
    title: str,
    facts: Mapping[str, Any],
    history: Mapping[str, Any] | None = None,
    information: Information | None = None,
    information_votes: int = 5,
    simulated: bool = False,
    unreadable: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write the report to ``out`` and return that; the same input gives the same bytes.

    ``images`` are the subjects' own, 8-bit or floats in [0, 1]. ``facts`` is what a checkpoint says of the
    model: nested values are shown as tables, ``unreadable`` ([subject id, reason] pairs) as a list.
    ``history`` holds ``train`` and ``held_out`` losses per epoch, and maybe ``best_epoch``. ``information``
    is what ``information_votes`` more votes would teach about each subject. ``simulated`` raises a banner.
    ``unreadable`` are the (subject id, reason) of those not judged, since their images cannot be read.
    """
    page = templates().get_template("report.html")
    evaluation = judged.evaluation
    html = page.render(
        title=title,
        simulated=simulated,
        how=judged.how,
        left_out=judged.left_out,
        unreadable=_listed(unreadable),
        headline=headline(evaluation),
        gallery=_gallery(judged, images, information),
        information_votes=information_votes,
        scores=_scores(judged),
        calibration=_calibration(judged),
        doubt=_doubt(judged.posterior, information_votes),
        asking=_asking(judged.posterior, images, information),
        training=_training(facts, history),
        draws=judged.posterior.draws,
    )
    with replacing(Path(out)) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return Path(out)


def to_json(evaluation: Evaluation, **about: Any) -> dict[str, Any]:
    """Return every score as plain JSON values, with ``about`` beside them: figures that do not exist are None.

    ``{"overall": {…}, "questions": {slug: {…}}}``, each with the fields of `Score`; intervals are
    ``{"value", "low", "high"}``.
    """
    scores = [asdict(score) for score in evaluation.scores]
    questions = {score["question"]: score for score in scores[1:]}
    plain: dict[str, Any] = _plain({"overall": scores[0], "questions": questions, **about})
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("greenpea"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "whole": _whole, "per_cent": _per_cent, "interval": _interval}
    return environment


# ---- numbers as people read them ---------------------------------------------------------------------


def _number(value: float, digits: int = 3) -> str:
    return "–" if not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def _whole(value: int) -> str:
    return f"{value:,}"


def _per_cent(share: float, digits: int = 1) -> str:
    return "–" if not math.isfinite(share) else f"{100 * share:.{digits}f}"


def _digits(interval: Interval) -> int:
    """Return so many decimals that half the interval keeps two figures, between 2 and 4."""
    half = (interval.high - interval.low) / 2
    return 3 if not half > 0 else max(2, min(4, 1 - math.floor(math.log10(half))))


def _interval(interval: Interval) -> str:
    digits = _digits(interval)
    return f"[{_number(interval.low, digits)}, {_number(interval.high, digits)}]"


# ---- the first words ---------------------------------------------------------------------------------


class Headline(NamedTuple):
    """What the evaluation comes to, in plain words; ``verdict`` is "better", "no better", "worse" or "unclear"."""

    verdict: str
    scores: str
    comparison: str
    coverage: str
    exceptions: str  # the questions that are no better; may be empty


def headline(evaluation: Evaluation) -> Headline:
    """Say in plain words how good the posterior is, and how far its sets can be trusted."""
    score = evaluation.overall
    digits = _digits(score.excess)
    floor = (
        f"On {score.subjects:,} held-out subject{'s' * (score.subjects != 1)} with {score.votes:,} votes, the "
        f"network predicts votes {_number(score.excess.value, digits)} nats per vote above the perfect floor; "
        f"the constant predictor, which sees no image, {_number(score.constant_excess, digits)}."
    )
    return Headline(verdict(score), floor, _comparison(score), _coverage(score), _exceptions(evaluation))


def verdict(score: Score) -> str:
    """Return "better" or "worse" than the constant predictor with 95 % certainty, "no better", or "unclear"."""
    if score.subjects < FEWEST:
        return "unclear"
    if score.gain.low > 0:
        return "better"
    return "worse" if score.gain.high < 0 else "no better"


def _comparison(score: Score) -> str:
    gain, unseen = score.gain, "than not looking at the image"
    size, interval = f"{_number(abs(gain.value), _digits(gain))} nats per vote", f"95 % interval {_interval(gain)}"
    match verdict(score):
        case "better":
            way = 100 * gain.value / score.constant_excess
            return (
                f"Better {unseen}: it gains {size} ({interval}), {way:.0f} % of the way from the constant "
                f"predictor to the floor."
            )
        case "worse":
            return f"Worse {unseen}: it loses {size} ({interval} of the gain)."
        case "no better":
            return f"No better {unseen}, as far as these votes can tell: the gain has the {interval} nats per vote."
    return f"Too few subjects to tell whether it is better {unseen}: that takes {FEWEST} or more."


def _off(score: Score) -> dict[str, int]:
    """Return, per level, +1 or −1 where coverage is off by more than two standard errors, else 0."""
    missed = {level: held - float(level) / 100 for level, held in score.coverage.items()}
    return {
        level: int(np.sign(miss)) if abs(miss) > 2 * score.coverage_error[level] else 0
        for level, miss in missed.items()
    }


def _coverage(score: Score) -> str:
    held = (
        f"its 90 % sets hold {_per_cent(score.coverage['90'])} ± {_per_cent(score.coverage_error['90'])} % "
        f"of the vote counts"
    )
    off = {level: sign for level, sign in _off(score).items() if sign}
    if not off:
        return f"Calibrated, as far as these votes can tell: {held}."
    others = [f"its {level} % sets {_per_cent(score.coverage[level])} %" for level in off if level != "90"]
    held = f"{held}, {_and(others)}" if others else held
    if all(abs(score.coverage[level] - float(level) / 100) <= 0.02 for level in off):
        return f"Calibrated to within 2 %, though not exactly: {held}."
    signs = sorted(set(off.values()))
    why = "too sure at some levels, not sure enough at others"
    if len(signs) == 1:
        why = "surer than it should be" if signs[0] < 0 else "less sure than it could be"
    return f"Not calibrated, {why}: {held}."


def _exceptions(evaluation: Evaluation) -> str:
    some = [score.question for score in evaluation.scores[1:] if verdict(score) in ("worse", "no better")]
    if not some:
        return ""
    judged = sum(verdict(score) != "unclear" for score in evaluation.scores[1:])
    if len(some) == judged:
        return "There is no question on which it is better than not looking."
    return f"On {len(some)} of {judged} questions it is no better than not looking: {_and(some)}."


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


# ---- pictures ----------------------------------------------------------------------------------------


def embedded(figure: Figure, alt: str) -> Markup:
    """Return a figure as inline SVG with its alternative text, as wide as it was drawn, or the screen."""
    width = round(96 * figure.get_size_inches()[0])
    drawn = Markup(plots.svg(figure))  # matplotlib escapes the words in it
    opening = Markup('<svg role="img" aria-label="{}" style="width:{}px" ').format(alt, width)
    return opening + drawn.removeprefix("<svg ")


def as_png(image: Num[np.ndarray, "channel y x"]) -> str:
    picture, buffer = Image.fromarray(plots.as_picture(image)), BytesIO()
    picture.thumbnail((WIDEST, WIDEST))
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


# ---- gallery -----------------------------------------------------------------------------------------

KINDS = {
    "Typical": "predicted as well as the median subject",
    "Most to learn": "more votes would teach the network most",
    "Worst predicted": "the votes surprised the network most",
    "Strangest": "farthest from the training subjects in embedding space",
}


@dataclass(frozen=True)
class Chosen:
    """A subject of the gallery: its row, why it was chosen, and the question to show."""

    row: int
    kind: str
    question: str


def choose(posterior: Posterior, votes: Votes, information: Information | None, each: int = EACH) -> list[Chosen]:
    """Return ``each`` subjects of each of the `KINDS`, by rule and not by hand, none of them twice.

    Typical and strangest subjects show the first question, or the one with most votes where that has none;
    those with most to learn the question on which the draws differ most; the worst the question that
    surprised most.
    """
    slugs = [slug for slug in posterior.tree.topological_order if votes.reached[slug].any()]
    reached = np.stack([votes.reached[slug] for slug in slugs])
    above = np.stack([log_floor(votes, slug) - posterior.log_pmf(slug, votes) for slug in slugs])
    doubt = np.stack([posterior.variance(slug).between.sum(axis=1) for slug in slugs])
    first = np.where(reached[0] > 0, 0, reached.argmax(axis=0))
    voted = reached.sum(axis=0) > 0
    per_vote = above.sum(axis=0) / np.maximum(reached.sum(axis=0), 1)
    orders: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "Typical": (-np.abs(per_vote - np.median(per_vote[voted])), first),
        "Worst predicted": (above.sum(axis=0), above.argmax(axis=0)),
    }
    if information is not None:
        orders["Most to learn"] = (information.value, (doubt * reached).argmax(axis=0))
    if posterior.distance is not None:
        orders["Strangest"] = (posterior.distance, first)
    chosen: list[Chosen] = []
    for kind in (kind for kind in KINDS if kind in orders):
        order, question = orders[kind]
        taken = {one.row for one in chosen}
        ranked = [int(row) for row in np.argsort(-order, kind="stable") if voted[row] and int(row) not in taken]
        chosen += [Chosen(row, kind, slugs[question[row]]) for row in ranked[:each]]
    return chosen


def _gallery(judged: Judged, images: np.ndarray, information: Information | None) -> list[dict[str, Any]]:
    posterior, votes = judged.posterior, judged.votes
    rows = []
    for one in choose(posterior, votes, information):
        question, row = posterior.tree[one.question], one.row
        reached, counts = int(votes.reached[one.question][row]), votes.counts[one.question][row]
        pmf = posterior.select([row]).pmf(one.question, reached)[:, 0]
        answer = plots.most_in_doubt(pmf)
        figure = plots.votes_predicted(None, "", question, pmf, counts, reached, answer)
        expected, spread = _moments(pmf[:, answer].mean(axis=0))
        said = (
            f"{counts[answer]} of {reached} said “{question.answers[answer].label()}”; "
            f"expected {expected:.1f} ± {spread:.1f}."
        )
        rows.append(
            {
                "kind": one.kind,
                "why": KINDS[one.kind],
                "subject": _thumbnail(posterior, images, information, row),
                "question": question.label(),
                "said": said,
                "picture": embedded(figure, f"Votes predicted for subject {posterior.subject_ids[row]}: {said}"),
            }
        )
    return rows


def _moments(pmf: Float[np.ndarray, " k"]) -> tuple[float, float]:
    """Return mean and standard deviation of a count."""
    k = np.arange(len(pmf))
    mean = float(pmf @ k)
    return mean, math.sqrt(max(0.0, float(pmf @ (k - mean) ** 2)))


def _thumbnail(posterior: Posterior, images: np.ndarray, information: Information | None, row: int) -> dict[str, Any]:
    facts = []
    if information is not None:
        facts.append(
            f"{_number(float(information.value[row]))} ± {_number(float(information.error[row]))} nats to learn"
        )
    if posterior.distance is not None:
        facts.append(f"distance {_number(float(posterior.distance[row]), 2)}")
    return {"id": str(posterior.subject_ids[row]), "png": as_png(images[row]), "facts": facts}


# ---- scores ------------------------------------------------------------------------------------------


def _scores(judged: Judged) -> dict[str, Any]:
    evaluation, tree = judged.evaluation, judged.posterior.tree
    rows = [
        {
            "score": score,
            "label": tree[score.question].label() if place else "All questions",
            "verdict": verdict(score),
            "digits": _digits(score.excess),
            "gain_digits": _digits(score.gain),
        }
        for place, score in enumerate(evaluation.scores)
    ]
    figure = plots.excess(evaluation.scores)
    overall = evaluation.overall
    alt = (
        f"Excess nats per vote: network {_number(overall.excess.value)}, constant predictor "
        f"{_number(overall.constant_excess)}, floor 0; and the same for {len(evaluation.scores) - 1} questions."
    )
    judged_questions = {score.question for score in evaluation.scores[1:]}
    return {
        "rows": rows,
        "picture": embedded(figure, alt),
        "fractions": _fractions(judged),
        "unasked": [slug for slug in tree.slugs if slug not in judged_questions],
    }


def _fractions(judged: Judged) -> list[Markup]:
    """Draw predicted against observed: of the questions with most votes, the answer volunteers differ most on."""
    evaluation = judged.evaluation
    most = sorted(evaluation.reached, key=lambda slug: -int(evaluation.reached[slug].sum()))[:SPREADS]
    pictures = []
    for slug in most:
        answer = int(evaluation.observed[slug].std(axis=0).argmax())
        predicted, observed = evaluation.predicted[slug][:, answer], evaluation.observed[slug][:, answer]
        name = f"{slug}: {judged.posterior.tree[slug].answer_slugs[answer]}"
        figure = plots.fractions(predicted, observed, evaluation.reached[slug], name)
        error = float(np.sqrt(((predicted - observed) ** 2).mean()))
        alt = f"Observed against predicted fraction of {name}, {len(observed):,} subjects, RMSE {_number(error)}."
        pictures.append(embedded(figure, alt))
    return pictures


# ---- calibration -------------------------------------------------------------------------------------


def _calibration(judged: Judged) -> dict[str, Any]:
    evaluation, tree = judged.evaluation, judged.posterior.tree
    questions = [
        {
            "score": score,
            "label": tree[score.question].label(),
            "pictures": _diagnostics(
                score,
                score.question,
                evaluation.ranks[score.question],
                evaluation.predicted[score.question].ravel(),
                evaluation.observed[score.question].ravel(),
                evaluation.pit[score.question].ravel(),
            ),
        }
        for score in evaluation.scores[1:]
    ]
    pooled = [_pooled(values) for values in (evaluation.predicted, evaluation.observed, evaluation.pit)]
    ranks = _pooled(evaluation.ranks)
    cells = len(evaluation.scores) * len(evaluation.overall.coverage)
    return {
        "levels": list(evaluation.overall.coverage),
        "rows": [(score, _off(score)) for score in evaluation.scores],
        "by_chance": (cells, round(0.05 * cells)),
        "pictures": _diagnostics(evaluation.overall, "all questions", ranks, *pooled),
        "questions": questions,
    }


def _pooled(values: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([value.ravel() for value in values.values()])


def _diagnostics(
    score: Score,
    name: str,
    ranks: Float[np.ndarray, " subject"],
    predicted: Float[np.ndarray, " cell"],
    observed: Float[np.ndarray, " cell"],
    pit: Float[np.ndarray, " cell"],
) -> list[Markup]:
    """Return coverage, reliability and PIT of one question, or of all."""
    held = ", ".join(f"{level} % sets hold {_per_cent(share)} %" for level, share in score.coverage.items())
    points = reliability(predicted, observed)
    farthest = float(np.abs(points.observed - points.predicted).max())
    return [
        embedded(plots.coverage(ranks, f"coverage, {name}"), f"Coverage, {name}: {held}."),
        embedded(
            plots.reliability(points, f"reliability, {name}"),
            f"Reliability, {name}: observed fractions differ from predicted ones by up to {_number(farthest)} in "
            f"{len(points.cells)} bins.",
        ),
        embedded(
            plots.pit(predicted, pit, f"PIT, {name}"),
            f"Histograms of the PIT of {len(pit):,} answers' counts by predicted fraction, {name}.",
        ),
    ]


# ---- kinds of doubt ----------------------------------------------------------------------------------


def _doubt(posterior: Posterior, votes: int) -> dict[str, Any] | None:
    """Return the kinds of doubt about ``votes`` at each question, averaged over at most `DOUBTED` subjects."""
    if not len(posterior):
        return None
    some, rng = posterior.select(np.arange(0, len(posterior), -(-len(posterior) // DOUBTED))), np.random.default_rng(0)
    found = [doubts.of_question(some, slug, votes, rng) for slug in posterior.tree.slugs]
    kinds = {
        "weights": np.array([float(one.weights.mean()) for one in found]),
        "opinion": np.array([float(one.opinion.mean()) for one in found]),
        "voting": np.array([float(one.voting.mean()) for one in found]),
    }
    total = sum(kinds.values(), np.zeros(len(found)))
    alt = "; ".join(
        f"{slug}: weights {_number(w)}, opinion {_number(o)}, voting {_number(v)} nats"
        for slug, w, o, v in zip(posterior.tree.slugs, *kinds.values(), strict=True)
    )
    shares = [value / np.maximum(total, 1e-12) for value in kinds.values()]
    return {
        "votes": votes,
        "subjects": len(some),
        "picture": embedded(plots.doubts(posterior.tree.slugs, kinds), f"Mean doubt about {votes} votes, {alt}."),
        "rows": list(zip(posterior.tree.slugs, total.tolist(), *(share.tolist() for share in shares), strict=True)),
    }


# ---- what to ask next --------------------------------------------------------------------------------


def _asking(posterior: Posterior, images: np.ndarray, information: Information | None) -> dict[str, Any] | None:
    if information is None or not len(posterior):
        return None
    value = information.value
    order = np.argsort(-value, kind="stable")
    most, least = order[:THUMBNAILS], order[THUMBNAILS:][::-1][:THUMBNAILS]
    alt = (
        f"Information about {len(value):,} subjects: median {_number(float(np.median(value)))}, largest "
        f"{_number(float(value.max()))} nats; the ceiling is {_number(math.log(posterior.draws), 2)}."
    )
    return {
        "most": [_thumbnail(posterior, images, information, int(row)) for row in most],
        "least": [_thumbnail(posterior, images, information, int(row)) for row in least],
        "picture": embedded(plots.information(value, posterior.draws, posterior.distance), alt),
        "saturated": saturated(value, posterior.draws),
        "ceiling": math.log(posterior.draws),
        "distance": posterior.distance is not None,
    }


# ---- how it was trained ------------------------------------------------------------------------------

ELSEWHERE = {"tree", "history", "unreadable"}  # facts that are not for a table


def _training(facts: Mapping[str, Any], history: Mapping[str, Any] | None) -> dict[str, Any]:
    inner = facts.get("facts")
    facts = {**facts, **inner} if isinstance(inner, Mapping) else facts
    shown = {key: value for key, value in facts.items() if key not in ELSEWHERE | {"facts"}}
    tables = {key: list(_flat(value)) for key, value in shown.items() if isinstance(value, Mapping) and value}
    plain = [(key, _said(value)) for key, value in shown.items() if not isinstance(value, Mapping)]
    return {
        "tables": {"model": plain, **tables} if plain else tables,
        "unreadable": _listed(facts.get("unreadable") or ()),
        "picture": _losses(history),
    }


def _listed(unreadable: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return the first `LISTED` (subject id, reason) pairs, and how many there are."""
    return {"some": [tuple(map(str, pair)) for pair in unreadable[:LISTED]], "count": len(unreadable)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _said(value)


def _said(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _losses(history: Mapping[str, Any] | None) -> Markup | None:
    if not history or not history.get("train"):
        return None
    train, held_out, best = history["train"], history.get("held_out") or [], int(history.get("best_epoch", -1))
    kept = f"; epoch {best + 1} was kept" if best >= 0 else ""
    alt = f"Losses over {len(train)} epochs of training, the last {_number(train[-1])} nats per subject{kept}."
    return embedded(plots.history(train, held_out, best), alt)
