"""What a posterior costs: 100 draws against one pass, and against 100 passes (the naive way). 64 pixels.

    python benchmarks/posterior_cost.py [--subjects 512]

The default encoder and real_votes' question (ten answers), weights as good as random: speed does not depend on them.
``ratio_100_draws_to_one_pass`` is (images → 100 draws, mean and variance) / (images → one prediction).
The naive way runs the whole network again for every draw with that draw's head: the same posterior, 100 passes.
Quantiles and information are timed apart.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from common import finish
from greenpea import information
from greenpea.calibration import Recalibration
from greenpea.images import Preparation
from greenpea.learning import encoders
from greenpea.learning.model import Draws, Model
from greenpea.learning.prediction import embed
from greenpea.learning.settings import Learning
from greenpea.learning.uncertainty import laplace
from greenpea.learning.uncertainty.skeleton import Learned
from greenpea.outputs import Geometry, Layout
from greenpea.posterior import Posterior
from real_votes import tree

DRAWS = 100


def model(embeddings_of: np.ndarray) -> Model:
    """Return a model with random weights and a Laplace state fitted on made-up votes."""
    torch.manual_seed(0)
    settings = Learning(draws=DRAWS)
    layout = Layout(tree())
    encoder = encoders.build("residual", 3, 64, settings.width).to(memory_format=torch.channels_last).eval()
    some = embed(encoder, embeddings_of)
    mean = 0.1 * torch.randn(encoder.embedding_size + 1, layout.outputs)
    packed = torch.cat([torch.randint(0, 10, (len(some), 10)).float(), torch.zeros(len(some), 1)], dim=1)
    packed[:, -1] = packed[:, :-1].sum(1)
    state = next(laplace.candidates(Learned(layout, None, mean, some, packed, settings)))
    recalibration = Recalibration({"object": 0.9}, {"object": -0.1})
    return Model(
        encoder, layout, Preparation(), settings, 3, state, Geometry.of(some.numpy(), some.numpy()), recalibration
    )


def timed(work: Callable[[], object], repeats: int = 5) -> tuple[float, list[float]]:
    """Return the median seconds of some runs after a warm-up, and all of them."""
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=512)
    arguments = parser.parse_args()
    images = np.random.default_rng(0).integers(0, 256, (arguments.subjects, 3, 64, 64), np.uint8)
    ids = np.array([f"s{i}" for i in range(len(images))], dtype=object)
    some = model(images)
    drawn = some.draw()

    def one(t: int) -> Draws:
        return replace(drawn, heads=drawn.heads[t : t + 1])

    def one_pass() -> np.ndarray:
        return some.posterior(embed(some.encoder, images), ids, one(0)).mean("object")

    def hundred_draws() -> Posterior:
        posterior = some.posterior(embed(some.encoder, images), ids, drawn)
        posterior.mean("object"), posterior.variance("object")
        return posterior

    def naive() -> np.ndarray:
        parts = [some.posterior(embed(some.encoder, images), ids, one(t)) for t in range(DRAWS)]
        return np.concatenate([part.parameters["object"] for part in parts])

    once, once_all = timed(one_pass)
    hundred, hundred_all = timed(hundred_draws)
    started = time.perf_counter()
    repeated = naive()
    naive_seconds = time.perf_counter() - started
    posterior = hundred_draws()
    quantiles, _ = timed(lambda: posterior.quantile("object", [0.05, 0.5, 0.95], tolerance=1e-4), 3)
    learned, _ = timed(lambda: information.of_tree(posterior, 5, np.random.default_rng(0)), 3)
    difference = np.abs(np.log(repeated) - np.log(posterior.parameters["object"])).max()
    finish(
        {
            "benchmark": "posterior_cost",
            "subjects": len(images),
            "ratio_100_draws_to_one_pass": hundred / once,
            "speedup_over_naive": naive_seconds / hundred,
            "largest_difference_from_naive_in_log_parameters": float(difference),
            "seconds": {"one_pass": once, "hundred_draws": hundred, "naive": naive_seconds},
            "all_runs": {"one_pass": once_all, "hundred_draws": hundred_all},
            "seconds_apart": {"three_quantiles": quantiles, "information_of_5_votes": learned},
            "images_per_second": {"one_pass": len(images) / once, "hundred_draws": len(images) / hundred},
        }
    )


if __name__ == "__main__":
    main()
