"""Real votes at size: CIFAR-10H, 8,000 images with about 50 human votes each, one question of ten answers.

    python benchmarks/real_votes.py [--images-seen 200000]

Trains Greenpea's default on 85 % of the images and judges it on the other 15 %, beside the constant predictor and
beside the naive way: the same encoder and the same recipe, a softmax trained on vote *fractions*, one point
prediction. Under 15 minutes on two cores. Figures are on this split of these images; others' are not comparable.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common import data_folder, figures, finish, say
from greenpea import images, outputs
from greenpea.calibration import Score, constant, evaluate
from greenpea.campaign import Campaign
from greenpea.creation import create
from greenpea.learning import encoders, training
from greenpea.learning.batches import ImageBatches, PlainBatches
from greenpea.learning.model import Model
from greenpea.tree import DecisionTree

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def tree() -> DecisionTree:
    """The one question that was asked."""
    question = {"slug": "object", "text": "What is it?", "answers": [{"slug": name} for name in CLASSES]}
    return DecisionTree.model_validate({"name": "cifar-10h", "questions": [question]})


def fractions_network(campaign: Campaign, model: Model) -> tuple[Score, float]:
    """Train the naive way, with the encoder, recipe, split and augmentation of ``model``; score it."""
    started = time.monotonic()
    loaded = images.load(campaign.subjects, campaign.settings.images)
    votes, role = campaign.votes, campaign.roles
    layout = outputs.Layout(campaign.tree, "multinomial")
    parts = {name: np.flatnonzero(role == name) for name in ("training", "validation", "test")}
    shares = torch.from_numpy(votes.fractions("object")).float()
    settings = model.settings
    encoder = encoders.build(settings.encoder, 3, campaign.settings.images.size, settings.width)
    head = nn.Linear(encoder.embedding_size, layout.outputs)
    network = nn.Sequential(encoder, nn.Dropout(settings.dropout), head).to(memory_format=torch.channels_last)
    count = len(parts["training"])
    best, _ = training.fit(
        network,
        ImageBatches(
            loaded.images,
            parts["training"],
            shares,
            settings.batch(count),
            settings.augmentation(model.facts["orientation"]),
        ),
        nn.functional.cross_entropy,
        held_out=PlainBatches(loaded.images, parts["validation"], shares, 256),
        recipe=settings.recipe(count),
        fabric=training.make_fabric(settings.precision),
        progress=lambda epoch, history: print(
            f"fractions network, epoch {epoch}: {history.held_out[-1]:.3f}", flush=True
        ),
    )
    test = parts["test"]
    with torch.inference_mode():
        found = torch.cat([best(x).float() for x, _ in PlainBatches(loaded.images, test, shares, 256)])
    posterior = outputs.posterior(layout, found[:, None].numpy(), campaign.subjects.subject_ids[test])
    baseline = constant(votes.select(np.flatnonzero(role != "test")), posterior.subject_ids)
    judged = evaluate(posterior, votes.select(test), baseline, np.random.default_rng(0))
    return judged.overall, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images-seen", type=int, default=200_000, help="training images seen by each network")
    arguments = parser.parse_args()
    table = data_folder("cifar10h", "test.parquet")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        epochs = max(1, arguments.images_seen // 5600)
        overrides = ["split.test=0.15", f"learning.epochs={epochs}"]
        campaign, _ = create(Path(temporary) / "cifar", tree(), table, overrides=overrides)
        _, model = campaign.train(report=say())
        score = campaign.evaluate(report=say()).evaluation.overall
        seconds = time.monotonic() - started
        naive, naive_seconds = fractions_network(campaign, model)
    ours = figures(score)
    theirs = figures(naive)
    finish(
        ours
        | {
            "benchmark": "real_votes",
            "seconds": seconds,
            "orientation": model.facts["orientation"],
            "epochs": epochs,
            "fractions_network": theirs | {"seconds": naive_seconds},
            "excess_ratio_to_fractions_network": ours["excess_nats_per_vote"] / theirs["excess_nats_per_vote"],
            "excess_ratio_to_constant": ours["excess_nats_per_vote"] / ours["constant_excess_nats_per_vote"],
            "total_seconds": time.monotonic() - started,
        }
    )


if __name__ == "__main__":
    main()
