"""Real galaxies: Galaxy Zoo 2 votes on 300 galaxies, five-fold cross-validated, 37 answers in 11 questions.

    python benchmarks/real_galaxies.py [--folds 5] [--pretrain-images-seen 200000]

Three times: the encoder from random weights, then one pre-trained on EFIGI and Galaxy Zoo 1, fine-tuned and frozen.
Every galaxy is judged by a model that never saw it, beside the constant predictor fitted on that fold's votes.
EFIGI's attributes are expert consensus, not votes: as a crowd, 20 volunteers are *simulated* from each attribute.
Galaxy Zoo 1 gives one vote, its published class. Neither holds any of the 300 galaxies' votes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from common import data_folder, figures, finish, say
from greenpea import images
from greenpea.calibration import ratio_interval
from greenpea.campaign import Campaign, Judged
from greenpea.creation import create
from greenpea.learning import checkpoint
from greenpea.learning.model import learn
from greenpea.learning.settings import Learning
from greenpea.subjects import SubjectSet
from greenpea.tree import DecisionTree, slugify
from greenpea.votes import Votes

EXPERTS = 20  # simulated volunteers per EFIGI attribute
CLASSES = ("elliptical", "clockwise", "anticlockwise", "edge", "dont-know", "merger")
ATTRIBUTES = (
    "Bulge_to_Total",
    "Arm_Strength",
    "Arm_Curvature",
    "Arm_Rotation",
    "Bar_Length",
    "Inner_Ring",
    "Outer_Ring",
    "Pseudo_Ring",
    "Perturbation",
    "Visible_Dust",
    "Dust_Dispersion",
    "Flocculence",
    "Hot_Spots",
    "Inclination",
    "Contamination",
    "Multiplicity",
)


def pretraining_tree() -> DecisionTree:
    """Galaxy Zoo 1's class, then a yes-or-no question per EFIGI attribute, one after the other."""
    slugs = ["class", *(slugify(name.replace("_", " ")) for name in ATTRIBUTES)]
    questions = []
    for index, slug in enumerate(slugs):
        following = slugs[index + 1] if index + 1 < len(slugs) else None
        names = CLASSES if slug == "class" else ("yes", "no")
        questions.append({"slug": slug, "answers": [{"slug": name, "next": following} for name in names]})
    return DecisionTree.model_validate({"name": "efigi-and-gz1", "questions": questions})


def pretraining_votes(efigi: SubjectSet, gz1: SubjectSet) -> Votes:
    """Return the votes of both sets, as said above, EFIGI's subjects first."""
    tree = pretraining_tree()
    votes = Votes.empty(tree, [*efigi.subject_ids, *gz1.subject_ids])
    rng = np.random.default_rng(0)
    for name in ATTRIBUTES:
        slug, value = slugify(name.replace("_", " ")), efigi.metadata[name].to_numpy()
        known = np.flatnonzero(value >= 0)  # −1: unknown
        yes = rng.binomial(EXPERTS, value[known])
        votes.counts[slug][known] = np.stack([yes, EXPERTS - yes], axis=1)
        votes.reached[slug][known] = EXPERTS
    classes = [slugify(value.replace("_", " ")) for value in gz1.metadata["class"].to_pylist()]
    rows = np.arange(len(efigi), len(votes))
    votes.counts["class"][rows, [CLASSES.index(value) for value in classes]] = 1
    votes.reached["class"][rows] = 1
    return votes


def pretrain(folder: Path, images_seen: int) -> Path:
    """Train an encoder on EFIGI and Galaxy Zoo 1, save its checkpoint and return the folder."""
    parts = [
        SubjectSet.open(data_folder("efigi", "attributes.csv")),
        SubjectSet.open(data_folder("gz1", "classes.csv")),
    ]
    votes = pretraining_votes(*parts)
    arrays = [images.load(part, images.Preparation()).images for part in parts]
    epochs = max(1, images_seen // len(votes))
    validation = np.random.default_rng(0).random(len(votes)) < 0.1
    model = learn(
        np.concatenate(arrays), votes, validation, images.Preparation(), Learning(epochs=epochs), report=say()
    )
    return checkpoint.save(model, folder)


def judged_figures(judged: Judged) -> dict[str, Any]:
    """Return the figures overall and of every question."""
    return {score.question: figures(score) for score in judged.evaluation.scores}


def gain_over(first: Judged, second: Judged) -> list[float]:
    """Return what ``second`` saves over ``first``, in nats per vote over all questions, with its interval."""
    gains, votes = np.zeros(len(first.votes)), np.zeros(len(first.votes))
    for slug in first.votes.tree.slugs:
        gains += second.posterior.log_pmf(slug, second.votes) - first.posterior.log_pmf(slug, first.votes)
        votes += first.votes.reached[slug]
    interval = ratio_interval(gains, votes, np.random.default_rng(0))
    return [interval.value, interval.low, interval.high]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--pretrain-images-seen", type=int, default=150_000)
    arguments = parser.parse_args()
    table = data_folder("gz2", "votes.csv")
    results: dict[str, Any] = {"benchmark": "real_galaxies", "folds": arguments.folds}
    with tempfile.TemporaryDirectory() as temporary:
        started = time.monotonic()
        campaign, _ = create(Path(temporary) / "gz2", "gz2", table)
        scratch = campaign.cross_validate(arguments.folds, report=say())
        results["from_scratch"] = judged_figures(scratch) | {"seconds": time.monotonic() - started}
        print_questions(scratch)

        started = time.monotonic()
        run = pretrain(Path(temporary) / "pretraining", arguments.pretrain_images_seen)
        results["pretraining_seconds"] = time.monotonic() - started
        for name, overrides in {
            "fine_tuned": ["learning.learning_rate=5e-4"],
            "frozen": ["learning.freeze=true"],
        }.items():
            started = time.monotonic()
            other = Campaign.open(campaign.folder, overrides).cross_validate(arguments.folds, run, report=say())
            results[name] = judged_figures(other) | {"seconds": time.monotonic() - started}
            results[name]["gain_over_from_scratch"] = gain_over(scratch, other)
            print_questions(other)
    finish(results)


def print_questions(judged: Judged) -> None:
    """Print every question's gain over the constant predictor, with its interval."""
    for score in judged.evaluation.scores:
        print(f"{score.question:20} excess {score.excess}  gain over constant {score.gain}", flush=True)


if __name__ == "__main__":
    main()
