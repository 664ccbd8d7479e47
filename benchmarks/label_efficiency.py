"""How many answers does asking well save? Learning curves of asking at random and by what answers teach, on three sets.

    python benchmarks/label_efficiency.py [--out FOLDER] [--work FOLDER] [--sets simulated efigi cifar10h]

`labels_ratio`: answers that the acquisition needs to reach random's held-out likelihood at a budget of 15 % of the
pool, over random's; below 1 it saves. Ten paired seeds with a frozen encoder trained on other data, two in which the
encoder is fine-tuned in every round. Held-out subjects are never asked about; they are judged by all their votes.
Every campaign is kept in the work folder, so that an interrupted run goes on.

`random` has every subject it takes looked at by 20 volunteers at once, as campaigns without a queue do. `prediction`
asks as a round does: five volunteers where their answers teach most about the votes on all others, and the same
subject again only if it still ranks; two looks in ten go to chance, one in ten to a reference set that is looked at to
the end, which alone chooses the doubt and recalibrates. `spread` is in between, so that it can be told what made the
difference: five volunteers, at random. On CIFAR-10H an image's recorded votes come out all at once, and there is
nothing in between.

Two likelihoods are printed, because they disagree: held-out votes one by one, which judges the fractions, and `joint`,
all votes on a question of a subject together, which judges the spread of opinion as well and is what other benchmarks
print as nats per vote.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import matplotlib
import numpy as np
import torch
from scipy.special import xlogy

from common import finish
from greenpea import acquisition
from greenpea.combining import combine
from greenpea.files import replacing
from greenpea.heads import Heads
from greenpea.learning.crossfit import cross_fit
from greenpea.learning.model import learn
from greenpea.learning.settings import Learning
from greenpea.posterior import Posterior
from greenpea.votes import Votes
from label_sets import SETS, LabelSet
from learning_curves import JOINT, OVERALL, SHARES, Curve, Pair, Ratio, labels_ratio, rising

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FIRST, BUDGET = 0.02, 0.15  # shares of the pool: asked at random to begin with, and when random asking ends
DRAWS = 100
TARGETS = 400  # subjects of the pool whose votes the acquisition wants to foretell
COLDNESS = 4.0
REFERENCE, CHANCE = 0.1, 0.2  # shares of the looks: subjects looked at to the end; at random, as the site's streams do
BY_CHANCE = ("random", "spread")
ARMS = ("random", "prediction", "spread")  # the first sets the budget, the second's figures stand first
ONE_LOOK = ("cifar10h",)  # sets whose subjects show all their votes at once, so that nothing can be spread
TITLES = {
    "random": "random, 20 votes each",
    "spread": "random, 5 votes each",
    "prediction": "what teaches, 5 at a time",
}


# ---- learners ----------------------------------------------------------------------------------------

Posteriors = Callable[[np.ndarray], Posterior]  # rows of the set → their posterior


class Learner(Protocol):
    """Learns from the votes of some rows, of which some were chosen ``by_chance``, and then speaks of any."""

    def learn(self, rows: np.ndarray, votes: Votes, by_chance: np.ndarray) -> Posteriors: ...


class Frozen:
    """Cross-fitted heads on embeddings, as a round fits them, each fit beginning with the last."""

    def __init__(self, label_set: LabelSet, subject_ids: np.ndarray) -> None:
        self.embeddings, self.subject_ids = label_set.embeddings.numpy(), subject_ids
        self.heads: Heads | None = None

    def learn(self, rows: np.ndarray, votes: Votes, by_chance: np.ndarray) -> Posteriors:
        settings = Learning(draws=30)
        kept = {"reserve": DRAWS - settings.draws, "start": self.heads, "threads": 1}
        self.heads = heads = cross_fit(self.embeddings[rows], votes, settings, by_chance=by_chance, **kept)
        return lambda some: heads.posterior(self.embeddings[some], self.subject_ids[some], DRAWS)


class FineTuned:
    """The encoder trained on, from the start, with the votes so far; head and doubt from a fifth kept aside.

    That fifth is of subjects chosen by chance where these are as many.
    """

    def __init__(self, label_set: LabelSet, subject_ids: np.ndarray) -> None:
        self.start, self.images, self.subject_ids = label_set.encoder(), label_set.images(), subject_ids

    def learn(self, rows: np.ndarray, votes: Votes, by_chance: np.ndarray) -> Posteriors:
        settings = self.start.settings.model_copy(
            update={"epochs": 12, "learning_rate": 5e-4, "likelihood": "dirichlet-multinomial"}
        )
        chance_first = np.argsort(~by_chance, kind="stable")
        validation = np.isin(np.arange(len(rows)), chance_first[: len(rows) // 5])
        model = learn(self.images[rows], votes, validation, self.start.preparation, settings, self.start)
        return lambda some: model.predict(self.images[some], self.subject_ids[some], DRAWS)


LEARNERS: dict[str, type[Frozen] | type[FineTuned]] = {"frozen": Frozen, "fine-tuned": FineTuned}
ROUNDS = {"frozen": 8, "fine-tuned": 4}  # after the first, until random has spent the budget
SCORED = {"frozen": 10**9, "fine-tuned": 1000}  # subjects of the pool ranked in a round


# ---- one campaign ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Campaign:
    """What a campaign is known by."""

    name: str
    learner: str
    seed: int
    arm: str

    @property
    def file(self) -> str:
        return f"{self.name}-{self.learner}-{self.seed:03d}-{self.arm}.json"


def run(campaign: Campaign, label_set: LabelSet, answers: int | None) -> Curve:
    """Run a campaign until 15 % of the pool is asked about or, where given, until so many answers are spent."""
    order = np.random.default_rng([campaign.seed, 0]).permutation(len(label_set))
    held_out, pool = order[: label_set.held_out], order[label_set.held_out :]
    looks, judges = label_set.crowd(campaign.seed)
    judges = judges.select(held_out)
    learner = LEARNERS[campaign.learner](label_set, looks[0].subject_ids)
    rng = np.random.default_rng([campaign.seed, 1 + ARMS.index(campaign.arm)])
    first, last = round(FIRST * len(pool)), round(BUDGET * len(pool))
    asking = Asking(pool, np.zeros(len(label_set), int), np.zeros(len(label_set), bool), looks)
    asking.ask(pool[:first], len(looks))
    asking.reference[pool[:first]] = True
    batch = -(-(last - first) * len(looks) // ROUNDS[campaign.learner])
    rounds: list[tuple[int, int, dict[str, float]]] = []
    while True:
        rows = np.flatnonzero(asking.looked)
        votes = asking.votes().select(rows)
        posteriors = learner.learn(rows, votes, asking.reference[rows] | (campaign.arm in BY_CHANCE))
        spent = int(votes.total.sum())
        rounds.append((len(rows), spent, scores(posteriors(held_out), judges)))
        if (len(rows) >= last) if answers is None else (spent >= answers or not asking.left().any()):
            break
        choose(campaign, asking, posteriors, batch, rng)
    nats = {name: tuple(values[name] for _, _, values in rounds) for name in rounds[0][2]}
    return Curve(tuple(count for count, _, _ in rounds), tuple(spent for _, spent, _ in rounds), nats)


@dataclass(frozen=True, eq=False)
class Asking:
    """Who has been looked at how often."""

    pool: np.ndarray  # rows of the set, in random order
    looked: np.ndarray  # [row] looks so far
    reference: np.ndarray  # [row] whether chance chose it to be looked at to the end
    looks: tuple[Votes, ...]

    def ask(self, rows: np.ndarray, looks: int) -> None:
        """Have rows looked at so many times more."""
        self.looked[rows] = np.minimum(self.looked[rows] + looks, len(self.looks))

    def left(self) -> np.ndarray:
        """Return, for each of the pool, whether it can be looked at once more."""
        return self.looked[self.pool] < len(self.looks)

    def votes(self) -> Votes:
        """Return the votes of all looks so far, a row for every subject of the set."""
        first = self.looks[0]
        counts = {slug: np.zeros_like(values) for slug, values in first.counts.items()}
        reached = {slug: np.zeros_like(values) for slug, values in first.reached.items()}
        for number, look in enumerate(self.looks):
            seen = self.looked > number
            for slug in counts:
                counts[slug] += look.counts[slug] * seen[:, None]
                reached[slug] += look.reached[slug] * seen
        return Votes(first.tree, first.subject_ids, counts, reached)


def choose(campaign: Campaign, asking: Asking, posteriors: Posteriors, batch: int, rng: np.random.Generator) -> None:
    """Ask so many looks more, as the arm does."""
    left = asking.pool[asking.left()]
    fresh, every = left[np.argsort(asking.looked[left], kind="stable")], len(asking.looks)  # in random order
    if campaign.arm == "random":
        asking.ask(fresh[: batch // every], every)
    elif campaign.arm == "spread":
        asking.ask(fresh[:batch], 1)
    else:
        reference, chance = round(REFERENCE * batch / every), round(CHANCE * batch)
        asking.ask(fresh[:reference], every)
        asking.reference[fresh[:reference]] = True
        asking.ask(fresh[reference : reference + chance], 1)
        best = teaching(asking, posteriors, batch - reference * every - chance, SCORED[campaign.learner], rng)
        asking.ask(best, 1)


def teaching(asking: Asking, posteriors: Posteriors, count: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Return the rows whose next votes teach most about the votes on all others, given those they have."""
    some = rng.permutation(asking.pool[asking.left()])[:most]
    posterior = posteriors(some)
    score = acquisition.prediction(posterior.select(np.arange(min(TARGETS, len(some)))))
    scored = score(combine(posterior, asking.votes().select(some)), rng)
    return some[acquisition.gumbel_order(scored, rng, keep=count, coldness=COLDNESS).order[:count]]


def scores(posterior: Posterior, votes: Votes) -> dict[str, float]:
    """Return the mean ln p of the held-out votes, in nats per vote, overall and by question.

    Each vote by itself, before any other of its subject is known: the likelihood of the fractions. And, as ``joint``,
    all votes on a question together, which judges the spread of opinion as well.
    """
    cast = {slug: int(votes.reached[slug].sum()) for slug in votes.tree.slugs}
    alone = {slug: _vote_by_vote(posterior, votes, slug) for slug in cast}
    joint = {slug: float(posterior.log_pmf(slug, votes).sum()) for slug in cast}
    out = {OVERALL: sum(alone.values()) / sum(cast.values()), JOINT: sum(joint.values()) / sum(cast.values())}
    out |= {slug: alone[slug] / cast[slug] for slug in cast}
    return out | {f"{slug}, {JOINT}": joint[slug] / cast[slug] for slug in cast}


def _vote_by_vote(posterior: Posterior, votes: Votes, slug: str) -> float:
    """Return Σ k ln f̄, the mean over draws of the fractions in the logarithm; all questions here are ``single``."""
    fractions = posterior.average(posterior.fractions(slug))
    return float(xlogy(votes.counts[slug], fractions).sum())


# ---- all of them -------------------------------------------------------------------------------------


def curves_of_seed(name: str, learner: str, seed: int, arms: Sequence[str], work: Path) -> dict[str, Curve]:
    """Return the curves of all arms of one seed, from the work folder where they are; random sets the budget."""
    torch.set_num_threads(1)
    label_set: LabelSet | None = None
    found: dict[str, Curve] = {}
    for arm in arms:
        campaign = Campaign(name, learner, seed, arm)
        path = work / "curves" / campaign.file
        if not path.exists():
            label_set = label_set or SETS[name](work)
            started = time.monotonic()
            curve = run(campaign, label_set, found["random"].answers[-1] if "random" in found else None)
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(curve.to_json()), encoding="utf-8")
            print(f"{campaign.file}: {curve.nats[OVERALL][-1]:.4f}, {time.monotonic() - started:.0f} s", flush=True)
        found[arm] = Curve.from_json(json.loads(path.read_text(encoding="utf-8")))
    return found


def figures(curves: Sequence[dict[str, Curve]], arms: Sequence[str]) -> dict[str, Any]:
    """Return every arm's ratio to random, overall and by question."""
    out: dict[str, Any] = {"seeds": len(curves)}
    for arm in arms[1:]:
        pairs = [Pair(some["random"], some[arm]) for some in curves]
        ratios = {name: _ratio(pairs, name) for name in curves[0][arm].nats}
        out[arm] = ratios[OVERALL].figures() | {
            JOINT: ratios[JOINT].figures(),
            "by_question": {name: one.figures() for name, one in ratios.items() if name not in (OVERALL, JOINT)},
        }
    return out


def _ratio(pairs: Sequence[Pair], question: str) -> Ratio:
    return labels_ratio(pairs, question, np.random.default_rng(0))


def plot(name: str, curves: Sequence[dict[str, Curve]], arms: Sequence[str], path: Path) -> None:
    """Draw, overall and by question, every seed thinly and their mean, against the share of the budget spent."""
    questions = [question for question in curves[0][arms[0]].nats if not question.endswith(f", {JOINT}")]
    figure, axes = plt.subplots(1, len(questions), figsize=(3.6 * len(questions), 3.4), squeeze=False)
    for axis, question in zip(axes[0], questions, strict=True):
        for arm, colour in zip(arms, ("0.45", "#2a9d4a", "#c2703d"), strict=False):
            seeds = [Pair(some["random"], some[arm]).along(question)[1] for some in curves]
            for nats in seeds:
                axis.plot(SHARES, nats, color=colour, alpha=0.2, lw=0.7)
            mean = np.mean(seeds, axis=0)
            axis.plot(SHARES, mean, color=colour, lw=2, label=TITLES[arm])
            if arm == "random":
                axis.axhline(rising(mean)[-1], color=colour, lw=0.8, ls="--")
        axis.set(title=question, xlabel="answers, of random's budget")
    axes[0, 0].set_ylabel("held-out nats per vote")
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(name)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def compare(name: str, learner: str, seeds: Sequence[int], arms: Sequence[str], options: argparse.Namespace) -> Any:
    """Run all campaigns of one set and one way of learning, draw them, and return the figures."""
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(curves_of_seed, name, learner, seed, arms, options.work) for seed in seeds]
        curves = [job.result() for job in jobs]
    if options.out:
        plot(f"{name}, encoder {learner}", curves, arms, options.out / f"label-efficiency-{name}-{learner}.png")
    found = figures(curves, arms)
    return found.pop(ARMS[1]) | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the plots; none without it")
    parser.add_argument("--work", type=Path, help="folder to keep encoders, embeddings and curves in; else thrown away")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", type=int, default=10, help="paired seeds with a frozen encoder")
    parser.add_argument("--fine-tuned", type=int, default=2, help="paired seeds with fine-tuning")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    started = time.monotonic()
    results: dict[str, Any] = {"benchmark": "label_efficiency", "budget": BUDGET, "draws": DRAWS}
    with tempfile.TemporaryDirectory() as temporary:
        options.work = options.work or Path(temporary)
        for name in options.sets:
            SETS[name](options.work)  # encoder and embeddings, once and not in every process
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        for name in options.sets:
            arms = ARMS[:2] if name in ONE_LOOK else ARMS
            results[name] = compare(name, "frozen", seeds, arms, options)
        for name in options.sets if options.fine_tuned else ():
            results[name]["fine_tuned"] = compare(name, "fine-tuned", seeds[: options.fine_tuned], ARMS[:2], options)
    finish(results | {"seconds": time.monotonic() - started})


if __name__ == "__main__":
    main()
