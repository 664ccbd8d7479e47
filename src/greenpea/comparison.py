"""Uncertainty methods side by side: trained on the same subjects, judged on the same others, on one page.

::

    DIR/comparison/networks/    one checkpoint a training; methods that can share one do
        comparison.html         the table and its pictures; comparison.json: the figures
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from greenpea import doubts, images, plots
from greenpea import report as reports
from greenpea.calibration import Evaluation, Interval, Recalibration, Score, constant, evaluate, ratio_interval
from greenpea.campaign import Campaign, starting_model
from greenpea.errors import GreenpeaError
from greenpea.files import replacing
from greenpea.learning.model import Model, Report, silent
from greenpea.learning.remembered import remembered
from greenpea.learning.settings import Learning
from greenpea.learning.uncertainty import method
from greenpea.posterior import Posterior
from greenpea.subjects import SubjectSet
from greenpea.votes import Votes

FOLDER, NETWORKS, PAGE, FIGURES = "comparison", "networks", "comparison.html", "comparison.json"


@dataclass(frozen=True, eq=False)
class Compared:
    """One method: how good its posterior is, before and after recalibration, and what it costs."""

    name: str
    evaluation: Evaluation
    uncorrected: Evaluation
    encoder_passes: int
    learning_seconds: float  # of the networks it stands on, too, as long as they took when they were trained
    predicting_seconds: float
    saves: Interval  # nats per vote over the first method; of subjects, paired
    information: float  # mean I(k; weights) of `Comparison.votes` votes, nats per question
    cost: str  # in words

    @property
    def score(self) -> Score:
        return self.evaluation.overall


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods in the order asked for, judged on the same subjects."""

    methods: tuple[Compared, ...]
    subjects: int
    how: str
    votes: int
    simulated: bool

    def to_json(self) -> dict[str, Any]:
        """Return every figure as plain JSON values."""
        found = {
            one.name: {
                **reports.to_json(one.evaluation),
                "before_recalibration": reports.to_json(one.uncorrected)["overall"],
                "encoder_passes": one.encoder_passes,
                "learning_seconds": one.learning_seconds,
                "predicting_seconds": one.predicting_seconds,
                "saves_over_first": asdict(one.saves),
                "information": one.information,
            }
            for one in self.methods
        }
        return {"methods": found, "subjects": self.subjects, "how": self.how, "simulated": self.simulated}


def compare(
    campaign: Campaign, methods: Sequence[str], start: str | Path | None = None, report: Report = silent
) -> Comparison:
    """Train, predict and judge each method on the campaign's test subjects; write the page and the figures.

    What is trained is kept in DIR/comparison/networks: the same method with the same settings on the same votes is not
    trained again, and neither is what a killed comparison had finished. All images with votes are held in memory.
    Raises GreenpeaError where a method is unknown, or no test subject has votes.
    """
    chosen = {name: _settings(campaign, name) for name in dict.fromkeys(methods)}
    if not chosen:
        raise GreenpeaError("no method to compare: name at least one, such as --methods laplace,ensemble")
    learned, judged = _parts(campaign, report)
    validation = campaign.roles[learned.rows] == "validation"
    first = None if start is None else starting_model(start)
    found: list[Compared] = []
    reference = np.empty(0)
    for name, settings in chosen.items():

        def told(stage: str, share: float, words: str, name: str = name) -> None:
            report(f"{name}: {stage}", share, words)

        material = (learned.images, learned.votes, validation, campaign.settings.images)
        model = remembered(campaign.folder / FOLDER / NETWORKS, *material, start=first, report=told)(settings)
        told("judging", 0.0, "")
        one, log_p = _judged(name, model, judged, learned.votes, campaign, reference)
        reference = reference if len(reference) else log_p
        found.append(one)
        told("judging", 1.0, "")
    how = "the test subjects and the audit set, kept from training by a hash of their id"
    votes = campaign.settings.catalogue.information_votes
    out = Comparison(tuple(found), len(judged.votes), how, votes, campaign.simulated)
    _write(out, campaign)
    return out


def _settings(campaign: Campaign, name: str) -> Learning:
    method(name)
    try:
        return Learning.model_validate(campaign.settings.learning.model_dump() | {"uncertainty": name})
    except ValidationError as error:
        faults = [fault["msg"].removeprefix("Value error, ") for fault in error.errors()]
        raise GreenpeaError("; ".join(faults)) from error


# ---- judging -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Part:
    """Some subjects with votes whose images could be read, and their rows in the campaign."""

    rows: np.ndarray
    images: np.ndarray
    votes: Votes


def _parts(campaign: Campaign, report: Report) -> tuple[_Part, _Part]:
    """Return those learned from, and those judged."""
    voted, taught = campaign.votes.total > 0, np.isin(campaign.roles, ("training", "validation"))
    if not (voted & ~taught).any():
        raise GreenpeaError("no test subject has votes to judge by: raise split.test, or bring more votes")
    return _part(campaign, voted & taught, report), _part(campaign, voted & ~taught, report)


def _part(campaign: Campaign, chosen: np.ndarray, report: Report) -> _Part:
    rows = np.flatnonzero(chosen)
    some: SubjectSet = campaign.subjects.select(rows)

    def progress(done: int) -> None:
        if done % 64 == 0 or done == len(some):
            report("images", done / len(some), f"{done:,} of {len(some):,}")

    loaded = images.load(some, campaign.settings.images, campaign.settings.catalogue.workers, progress)
    return _Part(rows[loaded.rows], loaded.images, campaign.votes.select(rows[loaded.rows]))


def _judged(
    name: str, model: Model, judged: _Part, learned: Votes, campaign: Campaign, reference: np.ndarray
) -> tuple[Compared, np.ndarray]:
    """Return a method's figures, and ln p of every subject's votes; ``reference`` is that of the first method."""
    votes, ids, chosen = judged.votes, judged.votes.subject_ids, campaign.settings
    started = time.monotonic()
    plain = replace(model, recalibration=Recalibration.identity(votes.tree))
    drawn = plain.draw(chosen.learning.draws, chosen.learning.seed)
    before = plain.posterior_of(judged.images, ids, drawn, chosen.learning)
    seconds = time.monotonic() - started
    after, baseline = model.recalibration.apply(before), constant(learned, ids)
    log_p = np.sum([after.log_pmf(slug, votes) for slug in votes.tree.slugs], axis=0)
    rng = np.random.default_rng(chosen.learning.seed)
    saves = ratio_interval(log_p - (reference if len(reference) else log_p), _replies(votes), rng)
    one = Compared(
        name=name,
        evaluation=evaluate(after, votes, baseline, rng),
        uncorrected=evaluate(before, votes, baseline, rng),
        encoder_passes=method(name).encoder_passes(model.settings, len(drawn.heads)),
        learning_seconds=model.facts["seconds"],
        predicting_seconds=seconds,
        saves=saves,
        information=_information(after, chosen.catalogue.information_votes),
        cost=method(name).COST,
    )
    return one, log_p


def _replies(votes: Votes) -> np.ndarray:
    """Return how many replies each subject has; where several answers may be given, each is one, for or against."""
    several = {one.slug: len(one.answers) if one.kind == "multiple" else 1 for one in votes.tree.questions}
    return np.asarray(np.sum([votes.reached[slug] * many for slug, many in several.items()], axis=0))


def _information(posterior: Posterior, votes: int) -> float:
    """Return the mean doubt about the weights over questions and at most 1,000 subjects, nats."""
    some = posterior.select(np.arange(0, len(posterior), -(-len(posterior) // reports.DOUBTED)))
    rng = np.random.default_rng(0)
    return float(np.mean([doubts.of_question(some, slug, votes, rng).weights for slug in posterior.tree.slugs]))


# ---- the page ----------------------------------------------------------------------------------------


def _write(comparison: Comparison, campaign: Campaign) -> None:
    folder = campaign.folder / FOLDER
    html = (
        reports.templates()
        .get_template(PAGE)
        .render(
            title=campaign.folder.resolve().name,
            comparison=comparison,
            headline=headline(comparison),
            scores=_scores(comparison),
            coverage=_coverage(comparison),
        )
    )
    with replacing(folder / PAGE) as temporary:
        temporary.write_text(html, encoding="utf-8")
    with replacing(folder / FIGURES) as temporary:
        temporary.write_text(json.dumps(comparison.to_json(), indent=2), encoding="utf-8")


def headline(comparison: Comparison) -> str:
    """Say which method predicts votes best, and whether it is shown to be better than the first."""
    first, best = comparison.methods[0], min(comparison.methods, key=lambda one: one.score.excess.value)
    said = f"{best.name} predicts votes best: {best.score.excess.value:.4f} nats per vote above the perfect floor"
    if best is first:
        closest = [one.name for one in comparison.methods[1:] if one.saves.high >= 0]
        return f"{said}." + (f" Not shown to be worse: {', '.join(closest)}." if closest else "")
    interval = f"95 % interval [{best.saves.low:.4f}, {best.saves.high:.4f}]"
    verdict = "better than" if best.saves.low > 0 else "not shown to be better than"
    return f"{said}; {verdict} {first.name}, over which it saves {best.saves.value:.4f} ({interval})."


def _scores(comparison: Comparison) -> Any:
    scores = [one.score for one in comparison.methods]
    names = [one.name for one in comparison.methods]
    alt = "; ".join(f"{name} {score.excess.value:.4f}" for name, score in zip(names, scores, strict=True))
    return reports.embedded(plots.excess(scores, names), f"Excess nats per vote: {alt}.")


def _coverage(comparison: Comparison) -> list[Any]:
    pictures = []
    for one in comparison.methods:
        ranks = np.concatenate(list(one.evaluation.ranks.values()))
        held = ", ".join(f"{level} % sets hold {100 * share:.1f} %" for level, share in one.score.coverage.items())
        pictures.append(reports.embedded(plots.coverage(ranks, one.name), f"Coverage of {one.name}: {held}."))
    return pictures
