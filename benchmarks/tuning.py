"""Does an encoder that is trained on with the campaign's votes see more? Simulated galaxies, the shipped encoder.

Heads on the shipped encoder against heads on the tuned pair, cross-fitted on the same votes as a round does, judged by
galaxies that neither has learned from, as a tuning's gate does: gain in nats per vote with its one-sided 5 % bound.

    python benchmarks/tuning.py --subjects 1500 --votes 15
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from common import finish, say
from greenpea import simulate
from greenpea.calibration import constant
from greenpea.heads import HALVES, half_of
from greenpea.learning import checkpoint
from greenpea.learning.crossfit import cross_fit
from greenpea.learning.kept import SHIPPED
from greenpea.learning.prediction import as_kept
from greenpea.learning.settings import Learning
from greenpea.learning.tuned import TunedEncoder, tune
from greenpea.rounds.comparing import one_by_one
from greenpea.rounds.gate import gain
from greenpea.tree import DecisionTree

AUDIT = 500  # galaxies that judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, nargs="+", default=[1500], help="galaxies learned from")
    parser.add_argument("--votes", type=int, default=15, help="volunteers on each")
    parser.add_argument("--tree", default="gz-decals-5")
    parser.add_argument("--seed", type=int, default=20261)
    options = parser.parse_args()
    tree, most = DecisionTree.load(options.tree), max(options.subjects)
    some = simulate.galaxies(most + AUDIT, options.seed)
    votes = simulate.classify(
        some.truth, tree, options.votes, simulate.volunteers(200, options.seed), options.seed, some.subject_ids
    )
    images = np.ascontiguousarray(np.moveaxis(some.images, 3, 1))
    results = {str(count): compare(count, images, votes, options.seed) for count in options.subjects}
    finish({"benchmark": "tuning", "simulated": True, "votes_each": options.votes, "subjects": results})


def compare(count: int, images: np.ndarray, votes: Any, seed: int) -> dict[str, Any]:
    """Return what tuning on the first so many galaxies gains, judged by the last `AUDIT`."""
    learned, judges = np.arange(count), np.arange(len(votes) - AUDIT, len(votes))
    shipped, settings, report = checkpoint.load_encoder(SHIPPED), Learning(draws=100, seed=seed), say()
    started = time.monotonic()
    halves = half_of(votes.subject_ids[learned])
    members = tuple(
        tune(shipped, images[rows], votes.select(rows), settings, report=report)
        for rows in (np.flatnonzero(halves != half) for half in range(HALVES))
    )
    tuned, trained = TunedEncoder(members, ""), time.monotonic() - started
    embedded = {
        "shipped": as_kept(shipped.embed(images)),
        "tuned": as_kept(tuned.embed(images, votes.subject_ids)),
    }
    said = {}
    for name, values in embedded.items():
        how = {"folds": 10, "halves": True} if name == "tuned" else {"folds": 5}
        heads = cross_fit(values[learned], votes.select(learned), settings, reserve=0, **how)
        said[name] = heads.posterior(values[judges], votes.subject_ids[judges])
    judged = votes.select(judges)
    rng = np.random.default_rng(seed)
    found = gain(said["tuned"], said["shipped"], judged, rng)
    blind = constant(votes.select(learned), judged.subject_ids)
    alone = {name: one_by_one(one, blind, judged)[None] for name, one in said.items()}
    return {
        "answers": int(votes.select(learned).total.sum()),
        "gain": found.value,
        "gain_low": found.low,
        "over_not_looking": alone,
        "seconds_training": trained,
    }


if __name__ == "__main__":
    main()
