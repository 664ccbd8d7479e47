"""The encoder that comes with the package: trained on our own simulator, so that a laptop starts from something.

::

    python -m greenpea.learning.shipping src/greenpea/encoders/galaxies-64

makes it again, from nothing but its seed. No real image and no real vote is in it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from greenpea import simulate
from greenpea.images import Preparation
from greenpea.learning import checkpoint
from greenpea.learning.kept import encoder_of
from greenpea.learning.model import Model, Report, learn
from greenpea.learning.settings import Learning
from greenpea.tree import DecisionTree

GALAXIES, VOTES, SIZE, EPOCHS = 14_000, 40, 64, 22
SEED = 907_006_203  # far from the small seeds that tutorials, tests and benchmarks simulate with
HELD_OUT = 0.1  # share that stops the training


def train(galaxies: int, epochs: int, report: Report, seed: int = SEED) -> Model:
    """Return a model of the full Galaxy Zoo DECaLS tree, trained on simulated galaxies and volunteers."""
    tree = DecisionTree.load(simulate.rendering.TREE)
    report("simulating", 0.0, f"{galaxies:,} galaxies")
    some = simulate.galaxies(galaxies, seed, SIZE)
    crowd = simulate.volunteers(400, seed)
    votes = simulate.classify(some.truth, tree, VOTES, crowd, seed, some.subject_ids)
    validation = np.arange(galaxies) % round(1 / HELD_OUT) == 0
    settings = Learning(orientation="any", epochs=epochs, seed=seed % 2**31)
    images = np.ascontiguousarray(np.moveaxis(some.images, 3, 1))
    return learn(images, votes, validation, Preparation(size=SIZE), settings, report=report)


def main() -> None:
    """Train it and write it to the folder named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m greenpea.learning.shipping", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--galaxies", type=int, default=GALAXIES)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    chosen = parser.parse_args()
    ship(train(chosen.galaxies, chosen.epochs, _say), chosen.folder)


def ship(model: Model, folder: Path) -> None:
    """Write a model's encoder in half precision, for any campaign: none of its subjects has been seen."""
    seen = model.facts["subjects"]
    origin = f"{sum(seen.values()):,} simulated galaxies, each classified by {VOTES} simulated volunteers"
    kept = replace(encoder_of(model), origin=origin, learned_from=(), about={"seed": SEED})
    checkpoint.save_encoder(kept, folder, half=True)


def _say(stage: str, share: float, words: str) -> None:
    print(f"{stage} {share:.0%} {words}", flush=True)


if __name__ == "__main__":
    main()
