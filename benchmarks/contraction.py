"""Doubt contracts: mean information at 200, 2,000 and 20,000 training subjects, for each method. Simulated galaxies.

    python benchmarks/contraction.py [--images-seen 100000]

At each size one network is trained, its head under dropout; each method then has its say about the same head. Of the
same 1,000 other galaxies it says what 5 more votes would teach about the weights (nats, of at most ln 30 = 3.40).
Laplace's should fall as votes accumulate. Dropout's cannot: its width is its rate, whatever the data.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np

from common import finish, say
from greenpea import information, simulate
from greenpea.images import Preparation
from greenpea.learning.model import Model, learn
from greenpea.learning.settings import Learning
from greenpea.learning.uncertainty import METHODS, dropout
from greenpea.tree import DecisionTree

JUDGES = 1000
VOTES = 40


def with_dropout(model: Model) -> Model:
    """Return the same encoder and head, which were trained under dropout, with dropout's draws instead of Laplace's."""
    settings = model.settings.model_copy(update={"uncertainty": "dropout"})
    return replace(model, settings=settings, state=dropout.State(model.state.mean, settings.dropout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 2000, 20000])
    parser.add_argument("--images-seen", type=int, default=100_000, help="by each encoder, at most 150 epochs")
    arguments = parser.parse_args()
    started = time.monotonic()
    tree = DecisionTree.load("gz-decals-5")
    most = max(arguments.sizes)
    some = simulate.galaxies(most + JUDGES, seed=1)
    votes = simulate.classify(some.truth, tree, VOTES, simulate.volunteers(200, 1), seed=1)
    images = np.ascontiguousarray(some.images.transpose(0, 3, 1, 2))
    print(f"{len(images):,} galaxies simulated in {time.monotonic() - started:.0f} s", flush=True)
    judges = np.arange(most, most + JUDGES)
    table: dict[str, dict[str, Any]] = {name: {} for name in METHODS}
    for size in arguments.sizes:
        rows = np.arange(size)
        epochs = min(150, max(3, arguments.images_seen // size))
        validation = rows % 7 == 0
        settings = Learning(epochs=epochs, orientation="any")
        laplace = learn(images[rows], votes.select(rows), validation, Preparation(), settings, report=say())
        for name, model in {"laplace": laplace, "dropout": with_dropout(laplace)}.items():
            posterior = model.predict(images[judges], votes.subject_ids[judges])
            learned = information.of_tree(posterior, 5, np.random.default_rng(0))
            table[name][str(size)] = {
                "mean_information_nats": float(learned.value.mean()),
                "standard_error": float(learned.value.std() / np.sqrt(JUDGES)),
                "share_saturated": information.saturated(learned.value, posterior.draws),
            }
            print(f"{size:,} subjects, {name}: {learned.value.mean():.4f} nats", flush=True)
    sizes = [str(size) for size in arguments.sizes]
    falls = {
        name: figures[sizes[0]]["mean_information_nats"] / figures[sizes[-1]]["mean_information_nats"]
        for name, figures in table.items()
    }
    finish(
        {
            "benchmark": "contraction",
            "simulated": True,
            "information": table,
            "fell_by_factor": falls,
            "seconds": time.monotonic() - started,
        }
    )


if __name__ == "__main__":
    main()
