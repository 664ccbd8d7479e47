"""Seven ways to doubt, on real votes: CIFAR-10H once, Galaxy Zoo 2 cross-validated in five folds.

    python benchmarks/uncertainty.py --work DIR [--sets cifar10h gz2] [--one]

Every method learns from the same subjects and is judged on the same others, which no network saw: excess nats per
vote, joint coverage before and after recalibration, RMSE, passes of the encoder, seconds of training, fitting and
predicting. Laplace, bootstrap and dropout stand on one network; that network and four more of other seeds are the
ensemble, and give the three methods five seeds. What differs between methods is compared subject by subject.

Networks and posteriors are kept in DIR: killed anywhere, the next run goes on. ``--one`` does one piece of work, prints
how many are left, and ends. On Galaxy Zoo 2 there are 300 galaxies: nothing is claimed inside the standard errors.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from common import data_folder, figures, finish, say
from greenpea import images
from greenpea.calibration import Evaluation, Recalibration, constant, evaluate, ratio_interval
from greenpea.campaign import Campaign, shares
from greenpea.creation import create
from greenpea.files import replacing
from greenpea.learning.model import shared
from greenpea.learning.remembered import remembered
from greenpea.learning.settings import Learning, Method
from greenpea.learning.uncertainty import method
from greenpea.outputs import Layout
from greenpea.posterior import Posterior
from greenpea.votes import Votes
from real_votes import tree

METHODS: tuple[str, ...] = get_args(Method)
ON_ONE_NETWORK = ("laplace", "bootstrap", "dropout")
FOLDS = 5
DRAWS = 30
POSTERIORS, FACTS = "posteriors", " facts"


@dataclass(frozen=True, eq=False)
class Fold:
    """Who is learned from, who of them is kept from the gradients, and who is judged."""

    number: int
    inside: np.ndarray
    validation: np.ndarray
    outside: np.ndarray


@dataclass(frozen=True, eq=False)
class Material:
    """One set of images and votes, and its folds."""

    name: str
    campaign: Campaign
    images: np.ndarray
    votes: Votes
    folds: tuple[Fold, ...]
    epochs: int

    def settings(self, name: str, seed: int) -> Learning:
        """Return the settings of a method; those of seed s > 0 stand on the ensemble's member s."""
        chosen = Learning(uncertainty=name, epochs=self.epochs, draws=DRAWS, orientation=self.orientation)  # type: ignore[arg-type]
        return chosen.model_copy(update={"seed": shared(chosen, seed).seed})

    @property
    def orientation(self) -> str:
        """As the probe finds it: photographs have an up, galaxies do not."""
        return "upright" if self.name == "cifar10h" else "any"


def material(name: str, work: Path, images_seen: int) -> Material:
    """Return a set, its campaign made in ``work`` the first time."""
    folder = work / name
    where = data_folder("cifar10h", "test.parquet") if name == "cifar10h" else data_folder("gz2", "votes.csv")
    if not (folder / "campaign.toml").is_file():
        create(folder, tree() if name == "cifar10h" else "gz2", where)
    campaign = Campaign.open(folder)
    loaded = images.load(campaign.subjects, campaign.settings.images)
    votes, ids = campaign.votes.select(loaded.rows), campaign.subjects.subject_ids[loaded.rows]
    if name == "cifar10h":
        fold = np.where(shares(ids, "judged") < 0.15, 0, 1)  # one part is judged, and the other always learned from
        numbers: tuple[int, ...] = (0,)
    else:
        fold = np.argsort(np.argsort(shares(ids, "folds"))) * FOLDS // len(ids)
        numbers = tuple(range(FOLDS))
    aside = shares(ids, "validation") < 0.15
    parts = [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in numbers]
    folds = tuple(Fold(n, inside, aside[inside], outside) for n, (inside, outside) in enumerate(parts))
    epochs = max(1, images_seen // int((~folds[0].validation).sum()))
    return Material(name, campaign, loaded.images, votes, folds, epochs)


# ---- pieces of work ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """One method with one seed on one fold."""

    set: str
    method: str
    seed: int
    fold: int

    @property
    def file(self) -> str:
        return f"{self.set}-{self.method}-{self.seed}-{self.fold}.npz"


def pieces(name: str, folds: int, seeds: int) -> Iterator[Piece]:
    """Yield the work on a set, what stands on one network first."""
    for seed in range(seeds):
        for chosen in ON_ONE_NETWORK:
            yield from (Piece(name, chosen, seed, fold) for fold in range(folds))
    for chosen in METHODS:
        if chosen not in ON_ONE_NETWORK:
            yield from (Piece(name, chosen, 0, fold) for fold in range(folds))


def do(piece: Piece, some: Material, work: Path) -> None:
    """Learn, predict and keep the posterior as it is before recalibration, with the map that recalibrates it."""
    fold = some.folds[piece.fold]
    chosen = some.settings(piece.method, piece.seed)
    given = some.images[fold.inside], some.votes.select(fold.inside), fold.validation, some.campaign.settings.images
    model = remembered(work / "networks", *given, report=say())(chosen)
    ids = some.votes.subject_ids[fold.outside]
    started = time.monotonic()
    plain = replace(model, recalibration=Recalibration.identity(some.votes.tree))
    uncorrected = plain.predict(some.images[fold.outside], ids)
    seconds = time.monotonic() - started
    facts = {
        "sharpness": dict(model.recalibration.sharpness),
        "shift": dict(model.recalibration.shift),
        "predicting_seconds": seconds,
        "learning_seconds": model.facts["seconds"],
        "encoder_passes": method(piece.method).encoder_passes(chosen, DRAWS),
    }
    arrays = {slug: np.asarray(values, np.float32) for slug, values in uncorrected.parameters.items()}
    with replacing(work / POSTERIORS / piece.file) as temporary, temporary.open("wb") as file:
        np.savez(file, **{FACTS: np.array(json.dumps(facts))}, **arrays)


# ---- what came of it ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Judged:
    """A method's posterior of all who were judged, before and after recalibration, with what it cost."""

    plain: Posterior
    corrected: Posterior
    votes: Votes
    baseline: Posterior
    facts: tuple[dict[str, Any], ...]  # of every fold

    def evaluations(self) -> tuple[Evaluation, Evaluation]:
        """Judge before and after recalibration."""
        before, after = (
            evaluate(one, self.votes, self.baseline, np.random.default_rng(0)) for one in (self.plain, self.corrected)
        )
        return before, after

    def log_pmf(self) -> np.ndarray:
        """Return ln p of every subject's votes, nats."""
        return np.sum([self.corrected.log_pmf(slug, self.votes) for slug in self.votes.tree.slugs], axis=0)


def read(some: Material, name: str, seed: int, work: Path) -> Judged | None:
    """Return what was kept of a method, or None where a fold is missing."""
    plain, corrected, baselines, facts = [], [], [], []
    for fold in some.folds:
        file = work / POSTERIORS / Piece(some.name, name, seed, fold.number).file
        if not file.is_file():
            return None
        with np.load(file) as kept:
            facts.append(json.loads(str(kept[FACTS])))
            parameters = {slug: kept[slug] for slug in some.votes.tree.slugs}
        layout = Layout(some.votes.tree)
        families = {slug: layout.family(slug) for slug in some.votes.tree.slugs}
        ids = some.votes.subject_ids[fold.outside]
        plain.append(Posterior(some.votes.tree, ids, families, parameters))
        corrected.append(Recalibration(facts[-1]["sharpness"], facts[-1]["shift"]).apply(plain[-1]))
        baselines.append(constant(some.votes.select(fold.inside), ids))
    votes = some.votes.select(np.concatenate([fold.outside for fold in some.folds]))
    return Judged(
        *map(Posterior.concatenate, (plain, corrected)), votes, Posterior.concatenate(baselines), tuple(facts)
    )


def told(judged: Judged) -> dict[str, Any]:
    """Return the figures of a method with one seed."""
    before, after = judged.evaluations()
    seconds = {key: sum(one[key] for one in judged.facts) for key in ("learning_seconds", "predicting_seconds")}
    found = figures(after.overall)
    return {
        "excess_nats_per_vote": found["excess_nats_per_vote"],
        "excess_interval": found["excess_interval"],
        "constant_excess_nats_per_vote": found["constant_excess_nats_per_vote"],
        "excess_before_recalibration": before.overall.excess.value,
        "gain_over_constant": found["gain_over_constant"],
        "coverage": {"before": dict(before.overall.coverage), "after": dict(after.overall.coverage)},
        "coverage_standard_error": found["coverage_standard_error"],
        "farthest_from_nominal": {"before": farthest(before), "after": farthest(after)},
        "rmse": found["rmse"],
        "encoder_passes": judged.facts[0]["encoder_passes"],
        "seconds": sum(seconds.values()),
        **seconds,
    }


def farthest(evaluation: Evaluation) -> float:
    """Return how far joint coverage is from nominal, at the level where it is farthest."""
    return max(abs(held - float(level) / 100) for level, held in evaluation.overall.coverage.items())


def saves(first: Judged, others: list[Judged]) -> list[float]:
    """Return what ``first`` saves over the mean of others, nats per vote, with its 95 % interval over subjects."""
    apart = first.log_pmf() - np.mean([one.log_pmf() for one in others], axis=0)
    interval = ratio_interval(apart, first.votes.total, np.random.default_rng(0))
    return [interval.value, interval.low, interval.high]


def summary(some: Material, seeds: int, work: Path) -> dict[str, Any]:
    """Return the figures of every method that is there, and how they compare."""
    found: dict[str, list[Judged]] = {}
    for name in METHODS:
        each = [read(some, name, seed, work) for seed in range(seeds if name in ON_ONE_NETWORK else 1)]
        found[name] = [one for one in each if one is not None]
    out: dict[str, Any] = {"subjects": len(next(iter(found.values()))[0].votes), "epochs": some.epochs}
    for name, several in found.items():
        if several:
            out[name] = told(several[0]) | {"seeds": len(several)}
        if len(several) > 1:
            excess = [told(one)["excess_nats_per_vote"] for one in several]
            out[name] |= {"excess_of_seeds": excess, "excess_mean": float(np.mean(excess))}
        if several and found["laplace"] and name != "laplace":
            out[name]["saves_over_laplace"] = saves(several[0], found["laplace"][:1])
    if found["ensemble"] and len(found["laplace"]) == 5:
        out["ensemble"]["saves_over_one_network"] = saves(found["ensemble"][0], found["laplace"])
    return out


def show(sets: Mapping[str, dict[str, Any]]) -> None:
    """Print one table a set."""
    for name, results in sets.items():
        print(f"\n{name}: {results['subjects']:,} subjects\n")
        print("| method | excess nats per vote | RMSE | before: 50 / 80 / 90 / 95 % | after | passes | seconds |")
        print("|---|---|---|---|---|---|---|")
        for chosen in METHODS:
            if chosen in results:
                print(line(chosen, results[chosen]))


def line(name: str, row: dict[str, Any]) -> str:
    """Return a method's line of the table."""
    low, high = row["excess_interval"]
    held = [
        " / ".join(f"{100 * share:.1f}" for share in row["coverage"][when].values()) for when in ("before", "after")
    ]
    return (
        f"| {name} | {row['excess_nats_per_vote']:.4f} [{low:.4f}, {high:.4f}] | {row['rmse']:.4f} | "
        f"{held[0]} | {held[1]} | {row['encoder_passes']} | {row['seconds']:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where networks and posteriors are kept")
    parser.add_argument("--sets", nargs="+", choices=["cifar10h", "gz2"], default=["cifar10h", "gz2"])
    parser.add_argument("--images-seen", type=int, default=60_000, help="by each network on CIFAR-10H")
    parser.add_argument("--galaxies-seen", type=int, default=8_000, help="by each network on Galaxy Zoo 2")
    parser.add_argument("--seeds", type=int, default=5, help="of the methods that stand on one network")
    parser.add_argument("--one", action="store_true", help="do one piece of work, and say how many are left")
    arguments = parser.parse_args()
    seen = {"cifar10h": arguments.images_seen, "gz2": arguments.galaxies_seen}
    sets = {name: material(name, arguments.work, seen[name]) for name in arguments.sets}
    left = [
        (piece, some)
        for some in sets.values()
        for piece in pieces(some.name, len(some.folds), arguments.seeds)
        if not (arguments.work / POSTERIORS / piece.file).is_file()
    ]
    for piece, some in left[:1] if arguments.one else left:
        print(f"{piece}, {len(left)} left", flush=True)
        do(piece, some, arguments.work)
    if arguments.one:
        finish({"benchmark": "uncertainty", "left": max(0, len(left) - 1)})
        return
    results = {name: summary(some, arguments.seeds, arguments.work) for name, some in sets.items()}
    show(results)
    finish({"benchmark": "uncertainty"} | results)


if __name__ == "__main__":
    main()
