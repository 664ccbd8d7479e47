"""What do people and network together save? A campaign that stops asking early, against 40 votes for every subject.

    python benchmarks/votes_saved.py [--set simulated] [--set cifar10h] [--gain 0.01] [--work FOLDER]

Two campaigns run through the real store, its queue and real rounds, nobody waiting:

- `simulated`: galaxies rendered anew, all questions of GZ DECaLS, simulated volunteers, some of whom misbehave;
  the encoder that comes with the package; the truth is what infinitely many honest volunteers would answer.
- `cifar10h`: 2,000 real images, real recorded votes replayed in random order; at most 40 of an image's 47 to 63
  are the campaign's, the others are kept aside to judge its predictions. The encoder has learned from other images
  (`label_sets.object_encoder`; made the first time, a quarter of an hour, and kept in ``--work``).

Nobody retires by a posterior before the reference set has spoken (`loop.reference_votes`); that set's full votes count
as all others do.

Every subject is judged by what was said of it when it retired: the posterior given its votes and, by a head that saw
none of them, its image. Beside it: 40 votes for everybody, and the same rule on votes alone, where the constant
predictor stands in for the network. All classifications count, those of the audit set included.

``non_inferior`` is for all questions pooled; a question alone seldom has the subjects to show it (its interval says).
``--set cifar10h`` takes some six minutes beyond its encoder; the simulated campaign, each of whose dozens of rounds
fits the whole tree, more than half an hour on two cores that do other things as well.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from common import data_folder, finish
from greenpea import calibration, creation, records, retirement, rounds, simulate
from greenpea.campaign import TRUTH, WORKFLOW, Campaign
from greenpea.combining import combine
from greenpea.embeddings import Embeddings
from greenpea.heads import Heads
from greenpea.posterior import Posterior
from greenpea.rehearsal import Answers, FromTruth, Habits, Replay, rehearse, truth_in
from greenpea.retirement import Count, Rule, Settled
from greenpea.site.opening import fill, open_store
from greenpea.store import Standing, Store
from greenpea.subjects import SubjectSet
from greenpea.tree import DecisionTree
from greenpea.votes import Votes
from greenpea.workflow import Workflow
from label_sets import object_encoder
from real_votes import tree as cifar_tree

FULL = 40  # votes per subject that the campaign is measured against
LEVEL, MARGIN = 0.9, 0.01  # of the credible sets; of non-inferiority
START = datetime(2026, 1, 1, tzinfo=UTC)
RESAMPLED = 2000
HONEST = Habits(clicking=0.0, first=0.0, scripted=0.0)
Estimate = Mapping[str, Float[np.ndarray, "subject answer"]]


# ---- what was said at the moment of stopping ---------------------------------------------------------


@dataclass
class Stops:
    """What is said of each subject when it retires: fractions, their intervals, and where votes kept aside fall."""

    tree: DecisionTree
    subject_ids: np.ndarray
    aside: Votes | None
    means: dict[str, np.ndarray] = field(default_factory=dict)
    low: dict[str, np.ndarray] = field(default_factory=dict)
    high: dict[str, np.ndarray] = field(default_factory=dict)
    ranks: dict[str, np.ndarray] = field(default_factory=dict)  # in the predictive's highest-density sets
    classifications: np.ndarray = field(init=False)
    reason: np.ndarray = field(init=False)
    rounds: int = 0

    def __post_init__(self) -> None:
        count = len(self.subject_ids)
        self.place = {str(subject): row for row, subject in enumerate(self.subject_ids)}
        self.classifications = np.zeros(count, np.int64)
        self.reason = np.full(count, None, object)
        for question in self.tree.questions:
            for values in (self.means, self.low, self.high):
                values[question.slug] = np.full((count, len(question.answers)), np.nan)
            self.ranks[question.slug] = np.full(count, np.nan)

    def open(self, subject_ids: np.ndarray) -> np.ndarray:
        """Return which of the subjects have not stopped."""
        return np.array([self.reason[self.place[str(subject)]] is None for subject in subject_ids], bool)

    def keep(self, combined: Posterior, classifications: Int[np.ndarray, " subject"], reasons: Sequence[str]) -> None:
        """Keep what is said of subjects that have just retired."""
        if not len(combined):
            return
        rows = np.array([self.place[str(subject)] for subject in combined.subject_ids])
        self.classifications[rows], self.reason[rows] = classifications, reasons
        for slug in self.tree.slugs:
            self.means[slug][rows] = combined.mean(slug)
            self.low[slug][rows], self.high[slug][rows] = combined.interval(slug, LEVEL)
            if self.aside is not None:
                aside = self.aside.align(combined.subject_ids)
                found = calibration.highest_density_ranks(combined, slug, aside, np.random.default_rng(rows))
                self.ranks[slug][rows] = found


# ---- the three campaigns -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """Subjects, who answers about them and how, and what may judge it."""

    name: str
    campaign: Campaign
    answers: Callable[[], Answers]
    habits: Habits
    seed: int
    block: int  # classifications between two rounds
    recorded: Votes | None = None  # all that may come out in a replay: `FULL` of each subject
    aside: Votes | None = None

    @property
    def rules(self) -> Sequence[Rule]:
        return Workflow.load(self.campaign.folder / WORKFLOW).retirement

    def stops(self) -> Stops:
        return Stops(self.campaign.tree, self.campaign.subjects.subject_ids, self.aside)


def play(scene: Scene, place: Path, turn: Callable[[Store, datetime], Any] | None, rules: Sequence[Rule]) -> Standing:
    """Let volunteers classify until every subject is retired; return where the subjects stand then."""
    settings = scene.campaign.settings
    with closing(open_store(scene.campaign.folder, f"sqlite:///{place}", settings)) as store:
        fill(store, scene.campaign.folder, settings, START)
        if list(rules) != list(scene.rules):
            store.workflows.publish(Workflow(tree=scene.campaign.tree, retirement=tuple(rules)), START)
        now = START
        for progress in rehearse(store, scene.answers(), scene.habits, scene.seed, START, block=scene.block, turn=turn):
            now = progress.now
        print(f"{scene.name}: {progress.ended} after {progress.classifications:,} classifications", flush=True)
        if turn is not None:
            turn(store, now)
        return store.standings.read()


def with_network(scene: Scene, place: Path) -> tuple[Stops, Standing]:
    """Run real rounds; return what was said at the moments of stopping."""
    stops = scene.stops()

    def turn(store: Store, now: datetime) -> None:
        record = rounds.run(scene.campaign, store, clock=lambda: now)
        if record is None:
            return
        stops.rounds += 1
        standing = store.standings.read()
        stopped = np.flatnonzero(standing.retired & stops.open(standing.votes.subject_ids))
        reasons = _reasons(record)
        votes = standing.votes.select(stopped)
        stops.keep(
            combined_now(scene.campaign, standing.votes, stopped),
            standing.classifications[stopped],
            [reasons.get(str(subject), "count") for subject in votes.subject_ids],
        )
        _tell(scene, stops, standing, record)

    return stops, play(scene, place, turn, scene.rules)


def _reasons(record: records.Record) -> dict[str, str]:
    path = record.folder / "retire.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _tell(scene: Scene, stops: Stops, standing: Standing, record: records.Record) -> None:
    overall = next((score for score in record.scores if score.question is None), None)
    judged = f"excess {overall.excess:.4f}, constant {overall.constant_excess:.4f}" if overall else ""
    print(
        f"{scene.name} round {record.number}: {standing.classifications.sum():,} classifications, "
        f"{standing.retired.sum()} of {len(standing)} retired, {record.gate and record.gate.outcome} {judged}",
        flush=True,
    )


def combined_now(campaign: Campaign, votes: Votes, rows: Int[np.ndarray, " row"]) -> Posterior:
    """Return the posterior of some rows by the heads that rank, given their votes; by the constant predictor before.

    As a round has it when it retires: with more draws for those whose votes leave few.
    """
    every, votes = votes, votes.select(rows)
    last = records.newest_with_heads(records.every(campaign.folder))
    if last is None:
        return combine(calibration.constant(every, votes.subject_ids), votes)
    heads = Heads.load(last.folder / records.HEADS)
    kept = Embeddings.open(campaign.folder, last.encoder)
    embeddings = kept.take(kept.rows_of(votes.subject_ids))
    usual = combine(heads.posterior(embeddings, votes.subject_ids), votes)
    few = usual.effective_draws < campaign.settings.loop.fewest_draws
    more = combine(heads.posterior(embeddings, votes.subject_ids, draws=heads.weights.shape[1]), votes)
    return _widened(usual, more, few)


def _widened(usual: Posterior, more: Posterior, few: np.ndarray) -> Posterior:
    """Return ``more`` where ``few``, else ``usual``, whose missing draws get no weight."""
    weights = np.zeros((more.draws, len(more)))
    weights[: usual.draws] = np.exp(usual.log_weights)
    weights[:, few] = np.exp(more.log_weights)[:, few]
    return Posterior(more.tree, more.subject_ids, more.families, more.parameters, more.distance, weights)


def votes_alone(scene: Scene, place: Path) -> tuple[Stops, Standing]:
    """Retire by the same rules, the constant predictor in the network's place."""
    stops = scene.stops()
    rng = np.random.default_rng([scene.seed, 7])

    def turn(store: Store, now: datetime) -> None:
        stops.rounds += 1
        standing = store.standings.read()
        prior = calibration.constant(standing.votes, standing.votes.subject_ids)
        asked = np.flatnonzero(~standing.retired & ~standing.audit)
        votes = standing.votes.select(asked)
        combined = combine(prior.select(asked), votes)
        found = retirement.by_posterior(scene.rules, combined, votes, standing.classifications[asked], rng)
        reasons = {str(subject): why for subject, why in zip(votes.subject_ids, found, strict=True) if why}
        store.rounds.retire(reasons, now)
        standing = store.standings.read()
        stopped = np.flatnonzero(standing.retired & stops.open(standing.votes.subject_ids))
        votes = standing.votes.select(stopped)
        why = [reasons.get(str(subject), "count") for subject in votes.subject_ids]
        stops.keep(combine(prior.select(stopped), votes), standing.classifications[stopped], why)

    return stops, play(scene, place, turn, scene.rules)


def everybody(scene: Scene, place: Path) -> tuple[Stops, Votes]:
    """Ask `FULL` volunteers about every subject: their votes, the constant predictor as the prior."""
    stops = scene.stops()
    votes = scene.recorded or play(scene, place, None, [Count(classifications=FULL)]).votes
    votes = votes.align(stops.subject_ids)
    combined = combine(calibration.constant(votes, votes.subject_ids), votes)
    stops.keep(combined, np.full(len(votes), FULL), ["count"] * len(votes))
    return stops, votes


# ---- judging -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Right, covered, and whether it counts, per subject and question (right and covered: shares of its answers)."""

    right: Mapping[str, np.ndarray]
    covered: Mapping[str, np.ndarray]


class Truth:
    """Known fractions: right where the leading answer is theirs, covered where they lie in the central intervals."""

    def __init__(self, truth: Estimate, tree: DecisionTree) -> None:
        self.truth, self.tree = truth, tree
        reach = tree.reach({slug: shares[:, None] for slug, shares in truth.items()})
        self.matters = {slug: share[:, 0] >= 0.5 for slug, share in reach.items()}

    def right(self, means: Estimate) -> dict[str, np.ndarray]:
        return {question.slug: self._right(question.slug, means[question.slug]) for question in self.tree.questions}

    def _right(self, slug: str, means: np.ndarray) -> np.ndarray:
        if self.tree[slug].kind == "multiple":
            return np.asarray(((means > 0.5) == (self.truth[slug] > 0.5)).mean(axis=1))
        return np.asarray(means.argmax(axis=1) == self.truth[slug].argmax(axis=1), float)

    def judge(self, stops: Stops) -> Case:
        inside = {
            slug: ((stops.low[slug] <= truth) & (truth <= stops.high[slug])).mean(axis=1)
            for slug, truth in self.truth.items()
        }
        return Case(self.right(stops.means), inside)


class Recorded:
    """Recorded answers: right where the leading answer is theirs; covered where votes kept aside are expected."""

    def __init__(self, slug: str, leading: Int[np.ndarray, " subject"]) -> None:
        self.slug, self.leading = slug, leading
        self.matters = {slug: np.ones(len(leading), bool)}

    def right(self, means: Estimate) -> dict[str, np.ndarray]:
        return {self.slug: np.asarray(means[self.slug].argmax(axis=1) == self.leading, float)}

    def judge(self, stops: Stops) -> Case:
        return Case(self.right(stops.means), {self.slug: np.asarray(stops.ranks[self.slug] <= LEVEL, float)})


def compared(found: Case, full: Case, matters: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, Any]:
    """Return both sides' accuracy and coverage by question and overall, and whether the first is non-inferior."""
    out: dict[str, Any] = {}
    for what in ("accuracy", "coverage"):
        ours, theirs = ((case.right if what == "accuracy" else case.covered) for case in (found, full))
        table = {slug: _difference([slug], ours, theirs, matters, rng) for slug in matters if matters[slug].any()}
        out[what] = {"overall": _difference(list(table), ours, theirs, matters, rng), **table}
    return out


def _difference(
    slugs: list[str], ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], matters: Any, rng: Any
) -> dict[str, Any]:
    """Return both means over the subjects and questions that matter; the difference by bootstrap over subjects."""
    weight = np.stack([matters[slug].astype(float) for slug in slugs])
    mine, other = (np.stack([case[slug] for slug in slugs]) for case in (ours, theirs))
    per_subject = [(weight * np.nan_to_num(case)).sum(axis=0) for case in (mine, other)]
    total = weight.sum(axis=0)
    picks = rng.multinomial(len(total), np.full(len(total), 1 / len(total)), size=RESAMPLED)
    samples = (picks @ (per_subject[0] - per_subject[1])) / np.maximum(picks @ total, 1)
    low, high = np.percentile(samples, [2.5, 97.5])
    value = float((per_subject[0] - per_subject[1]).sum() / total.sum())
    return {
        "campaign": float(per_subject[0].sum() / total.sum()),
        "full": float(per_subject[1].sum() / total.sum()),
        "difference": value,
        "interval": [float(low), float(high)],
        "cases": int(total.sum()),
        "non_inferior": bool(low > -MARGIN),
    }


def by_reason(stops: Stops, case: Case, full: Case, matters: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return, per reason of retirement, its share, classifications, accuracy and coverage, beside the full votes'."""
    out = {}
    for reason in sorted(set(map(str, stops.reason))):
        rows = stops.reason.astype(str) == reason
        some = {slug: matters[slug] & rows for slug in matters}

        def mean(values: Mapping[str, np.ndarray], some: Mapping[str, np.ndarray] = some) -> float:
            parts = np.concatenate([values[slug][some[slug]] for slug in some])
            return float(parts.mean()) if len(parts) else float("nan")

        out[reason] = {
            "share": float(rows.mean()),
            "classifications": float(stops.classifications[rows].mean()),
            "accuracy": mean(case.right),
            "accuracy_full": mean(full.right),
            "coverage": mean(case.covered),
            "coverage_full": mean(full.covered),
        }
    return out


def _summary(comparison: dict[str, Any]) -> dict[str, Any]:
    """Return whether non-inferiority is shown, overall and at which questions it is not."""
    missing = {
        what: [slug for slug, one in table.items() if slug != "overall" and not one["non_inferior"]]
        for what, table in comparison.items()
    }
    return {
        "non_inferior": all(table["overall"]["non_inferior"] for table in comparison.values()),
        "non_inferior_by_question": not any(missing.values()),
        "questions_not_shown": missing,
        "questions_inferior": {
            what: [slug for slug, one in table.items() if slug != "overall" and one["interval"][1] < -MARGIN]
            for what, table in comparison.items()
        },
    }


def measure(scene: Scene, judges: Mapping[str, Truth | Recorded], folder: Path) -> dict[str, Any]:
    """Run the three campaigns and compare them; the first judge decides, the others are told beside it."""
    begun = time.monotonic()
    full, votes = everybody(scene, folder / f"{scene.name}-full.sqlite")
    alone, alone_standing = votes_alone(scene, folder / f"{scene.name}-alone.sqlite")
    stops, standing = with_network(scene, folder / f"{scene.name}-loop.sqlite")
    budget = FULL * len(standing)
    out: dict[str, Any] = {
        "subjects": len(standing),
        "audit": int(standing.audit.sum()),
        "rules": [rule.model_dump() for rule in scene.rules],
        "classifications_per_round": scene.block,
        "rounds": stops.rounds,
        "votes_ratio": float(standing.classifications.sum() / budget),
        "votes_ratio_without_network": float(alone_standing.classifications.sum() / budget),
    }
    both = scene.stops()
    both.keep(
        combined_now(scene.campaign, votes, np.arange(len(votes))), np.full(len(votes), FULL), ["count"] * len(votes)
    )
    for number, (name, judge) in enumerate(judges.items()):
        base = judge.judge(full)
        rng = np.random.default_rng(number)
        told = _judged(stops, base, judge, rng)
        raw = judge.right({slug: votes.fractions(slug) for slug in votes.tree.slugs})
        told["full_votes_raw_fractions_accuracy"] = _pooled(raw, judge.matters)
        told["full_votes_and_network_accuracy"] = _pooled(judge.judge(both).right, judge.matters)
        told["full_votes_and_network_coverage"] = _pooled(judge.judge(both).covered, judge.matters)
        told["without_network"] = _judged(alone, base, judge, rng)
        out |= told if number == 0 else {f"against_{name}": told}
    return out | {"seconds": time.monotonic() - begun}


def _judged(stops: Stops, full: Case, judge: Truth | Recorded, rng: np.random.Generator) -> dict[str, Any]:
    case = judge.judge(stops)
    comparison = compared(case, full, judge.matters, rng)
    return {**_summary(comparison), **comparison, "by_reason": by_reason(stops, case, full, judge.matters)}


def _pooled(values: Mapping[str, np.ndarray], matters: Mapping[str, np.ndarray]) -> float:
    return float(np.concatenate([values[slug][matters[slug]] for slug in matters]).mean())


# ---- the scenes --------------------------------------------------------------------------------------


def rules_of(chosen: argparse.Namespace) -> tuple[Rule, ...]:
    settled = Settled(rule="settled", gain=chosen.gain, classifications=chosen.least)
    return (Count(classifications=FULL), settled)


def simulated(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Simulated galaxies, rendered anew from a seed of their own."""
    # Of so few galaxies 2 % would be too few to tell how opinions spread.
    overrides = ["loop.compared=0", "site.reference_share=0.05", *chosen.settings]
    campaign, _ = creation.simulate(folder / "sky", chosen.galaxies, 0, 64, chosen.seed, overrides=overrides)
    tree, ids = campaign.tree, campaign.subjects.subject_ids
    _set_rules(campaign, rules_of(chosen))
    some = simulate.galaxies(chosen.galaxies, chosen.seed, 64)
    crowd = simulate.volunteers(200, chosen.seed)  # that of creation.simulate, whose expectation is the truth here
    judge = Truth(truth_in(campaign.folder / TRUTH, tree, ids), tree)
    scene = Scene(
        "simulated",
        campaign,
        lambda: FromTruth(some.truth, some.subject_ids, tree, crowd),
        Habits(),
        chosen.seed,
        chosen.block,
    )
    return measure(scene, {"truth": judge}, folder)


def cifar10h(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """CIFAR-10H: recorded votes, of which `FULL` may come out and the others judge."""
    whole = SubjectSet.open(data_folder("cifar10h", "test.parquet"))
    rng = np.random.default_rng(chosen.seed)
    subjects = whole.select(np.sort(rng.permutation(len(whole))[: chosen.images]))
    tree = cifar_tree()
    votes = Votes.from_table(subjects.metadata, tree, subjects.subject_ids)
    cast = _some_of(votes, FULL, rng)
    slug = tree.first
    counts = votes.counts[slug] - cast.counts[slug]
    aside = Votes(tree, votes.subject_ids, {slug: counts}, {slug: counts.sum(axis=1)})
    work = Path(chosen.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    object_encoder(work)
    overrides = ["loop.compared=0", f"loop.encoder={work / 'encoder-objects'}", *chosen.settings]
    campaign, _ = creation.create(folder / "objects", tree, subjects, Votes.empty(tree, []), overrides=overrides)
    _set_rules(campaign, rules_of(chosen))
    labels = [tree[slug].answer_slugs.index(str(label)) for label in subjects.metadata["label"].to_pylist()]
    judges = {
        "majority": Recorded(slug, votes.counts[slug].argmax(axis=1)),
        "label": Recorded(slug, np.array(labels)),
    }
    scene = Scene(
        "cifar10h",
        campaign,
        lambda: Replay(cast, np.random.default_rng([chosen.seed, 3])),
        HONEST,
        chosen.seed,
        chosen.block,
        cast,
        aside,
    )
    return measure(scene, judges, folder)


def _some_of(votes: Votes, count: int, rng: np.random.Generator) -> Votes:
    """Return ``count`` of each subject's recorded votes, drawn without replacement."""
    slug = votes.tree.first
    counts = rng.multivariate_hypergeometric  # one row at a time
    drawn = np.stack([counts(row, count) for row in votes.counts[slug]])
    return Votes(votes.tree, votes.subject_ids, {slug: drawn}, {slug: drawn.sum(axis=1)})


def _set_rules(campaign: Campaign, rules: tuple[Rule, ...]) -> None:
    path = campaign.folder / WORKFLOW
    path.write_text(Workflow.load(path).model_copy(update={"retirement": rules}).to_json(), encoding="utf-8")


SETS = {"simulated": simulated, "cifar10h": cifar10h}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", dest="sets", action="append", choices=SETS, help="default: both")
    parser.add_argument("--gain", type=float, default=0.01, help="of the rule 'settled'")
    parser.add_argument("--least", type=int, default=3, help="classifications before that rule is asked")
    parser.add_argument("--galaxies", type=int, default=800)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--block", type=int, default=400, help="classifications between two rounds")
    parser.add_argument("--seed", type=int, default=1701)
    parser.add_argument("--work", default="build/benchmarks", help="folder in which encoders are kept")
    parser.add_argument("--settings", action="append", default=[], help="section.key=value of the campaign")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        figures = {name: SETS[name](folder, chosen) for name in chosen.sets or SETS}
    finish(figures | {"seed": chosen.seed, "gain": chosen.gain})


if __name__ == "__main__":
    main()
