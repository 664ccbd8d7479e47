"""Labels with two kinds of doubt on CIFAR-10, as in Dorman's “Building a Bayesian deep learning classifier” (2017).

    python benchmarks/article.py [--work DIR] [--passes 200000] [--draws 100]

20,000 labelled photographs of 32 pixels. An encoder learns from 13,000 of them (the article's had ImageNet's weights,
which are not to be had here) and is frozen. A head with dropout and two outputs, logits and their variance, learns from
3,000 others, each of them also brighter or darker (gamma 0.5 or 2), as in the article. 4,000 are for the test.

The article's epistemic doubt is the entropy of the mean of the draws, its aleatoric doubt the learned variance. Beside
them stand the two parts of that entropy: what the draws disagree about (mutual information) and what each leaves open
(expected entropy). Means are by the rank of the true class: first, second, rest. Then the test photographs with gamma
far from 1: the share that is more in doubt than the photograph as it was. With --work the encoder is kept and found
again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from common import data_folder, finish, say
from greenpea import images
from greenpea.calibration.labels import calibration_error
from greenpea.labels import doubt
from greenpea.learning import checkpoint
from greenpea.learning.arrays import ArrayModel, learn_labels
from greenpea.learning.kept import KeptEncoder
from greenpea.learning.settings import Learning
from greenpea.subjects import SubjectSet

SHARES = {"encoder": 13_000, "head": 3_000, "test": 4_000}
GAMMAS = (0.2, 0.33, 3.0, 5.0)  # of the distorted test photographs
SIZE = 32
KINDS = ("epistemic", "aleatoric", "learned_variance", "entropy")
HEADS = {"article": "shared", "kendall_gal": "each"}  # the noise of the logits


def photographs() -> tuple[np.ndarray, np.ndarray]:
    """Return all photographs [subject, channel, y, x] and their labels, in an order of chance."""
    subjects = SubjectSet.open(data_folder("cifar10h", "train.parquet"))
    loaded = images.load(subjects, images.Preparation(size=SIZE))
    labels = np.array(subjects.metadata["label"].to_pylist(), str)[loaded.rows]
    order = np.random.default_rng(0).permutation(len(labels))
    return loaded.images[order], labels[order]


def encoder(pictures: np.ndarray, labels: np.ndarray, passes: int, work: Path | None) -> tuple[KeptEncoder, float]:
    """Return the encoder learned from these photographs, and its seconds; from ``work`` where it is kept."""
    folder = work / f"encoder-{passes}" if work else None
    if folder and (folder / checkpoint.ENCODER_FACTS).is_file():
        kept = checkpoint.load_encoder(folder)
        return kept, float(kept.about["seconds"])
    started = time.monotonic()
    settings = Learning(epochs=max(1, passes // len(labels)), orientation="upright", width=24, erase=0.3)
    model = learn_labels(pictures, labels, noise="none", settings=settings, report=say())
    kept = KeptEncoder(
        encoder=model.encoder,  # type: ignore[arg-type]
        preparation=images.Preparation(size=SIZE, channels=3),
        name=settings.encoder,
        width=settings.width,
        channels=3,
        origin="13,000 labelled photographs",
        about={"seconds": time.monotonic() - started},
    )
    if folder:
        checkpoint.save_encoder(kept, folder)
    return kept, float(kept.about["seconds"])


def with_gamma(pictures: np.ndarray, gamma: float | np.ndarray) -> np.ndarray:
    """Return photographs whose brightness is raised to the power ``gamma``, one for all or one each."""
    power = np.broadcast_to(np.asarray(gamma, np.float32), len(pictures))[:, None, None, None]
    return np.rint(255 * (pictures / np.float32(255)) ** power).astype(np.uint8)


def head(kept: KeptEncoder, pictures: np.ndarray, labels: np.ndarray, noise: Any, seed: int) -> ArrayModel:
    """Return the two-output head with dropout, learned from photographs as they are and with gamma 0.5 or 2."""
    rng = np.random.default_rng(seed)
    both = np.concatenate([pictures, with_gamma(pictures, rng.choice([0.5, 2.0], len(pictures)))])
    aside = rng.random(len(pictures)) < 0.15
    settings = Learning(
        uncertainty="dropout", dropout=0.5, draws=100, freeze=True, epochs=80, learning_rate=1e-3, seed=seed
    )
    return learn_labels(
        both,
        np.tile(labels, 2),
        noise=noise,
        hidden=(256, 100),
        validation=np.tile(aside, 2),
        start=kept.encoder,
        settings=settings,
        report=say(),
    )


def doubts(model: ArrayModel, pictures: np.ndarray, draws: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the mean probabilities and each kind of doubt of every photograph."""
    posterior = model.predict(pictures, draws=draws)
    parts = doubt(posterior)
    variance = model.layout.variances(model.outputs(pictures, draws)).mean(axis=(1, 2))  # type: ignore[union-attr]
    kinds = (parts.epistemic, parts.aleatoric, variance, parts.total)
    return posterior.mean("label"), dict(zip(KINDS, kinds, strict=True))


def by_rank(p: np.ndarray, found: dict[str, np.ndarray], codes: np.ndarray) -> dict[str, Any]:
    """Return the mean doubts where the true class is ranked first, second or further down."""
    rank = (p > p[np.arange(len(p)), codes][:, None]).sum(axis=1)
    groups = {"first": rank == 0, "second": rank == 1, "rest": rank > 1}
    out: dict[str, Any] = {"share": {name: float(rows.mean()) for name, rows in groups.items()}}
    for kind, values in found.items():
        means = {name: float(values[rows].mean()) for name, rows in groups.items()}
        errors = {name: float(values[rows].std() / np.sqrt(rows.sum())) for name, rows in groups.items()}
        out[kind] = {
            "mean": means,
            "standard_error": errors,
            "rises_strictly": means["first"] < means["second"] < means["rest"],
            "rest_over_first": means["rest"] / means["first"],
        }
    return out


def judged(model: ArrayModel, pictures: np.ndarray, labels: np.ndarray, draws: int) -> dict[str, Any]:
    """Return the figures of one head on the test photographs, as they are and distorted."""
    codes = model.layout.codes(labels)  # type: ignore[union-attr]
    p, plain = doubts(model, pictures, draws)
    error = calibration_error(p, codes, np.random.default_rng(0))
    figures: dict[str, Any] = {
        "accuracy": float((p.argmax(axis=1) == codes).mean()),
        "log_score_nats": float(-np.log(p[np.arange(len(p)), codes]).mean()),
        "ece": error.expected,
        "ece_null_95": error.null[1],
        "by_rank_of_the_true_class": by_rank(p, plain, codes),
    }
    higher: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    accuracy = {}
    for gamma in GAMMAS:
        q, distorted = doubts(model, with_gamma(pictures, gamma), draws)
        accuracy[f"{gamma:g}"] = float((q.argmax(axis=1) == codes).mean())
        for kind in KINDS:
            higher[kind].append(distorted[kind] > plain[kind])
    figures["accuracy_by_gamma"] = accuracy
    figures["share_more_in_doubt"] = {
        kind: {"all": float(np.mean(each))}
        | {f"{gamma:g}": float(one.mean()) for gamma, one in zip(GAMMAS, each, strict=True)}
        for kind, each in higher.items()
    }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="a folder to keep the encoder in")
    parser.add_argument("--passes", type=int, default=200_000, help="images that the encoder learns from")
    parser.add_argument("--draws", type=int, default=100)
    arguments = parser.parse_args()
    pictures, labels = photographs()
    edges = np.cumsum([0, *SHARES.values()])
    rows = {name: slice(a, b) for name, a, b in zip(SHARES, edges, edges[1:], strict=False)}
    kept, seconds = encoder(pictures[rows["encoder"]], labels[rows["encoder"]], arguments.passes, arguments.work)
    results: dict[str, Any] = {
        "benchmark": "article",
        "photographs": SHARES,
        "draws": arguments.draws,
        "passes": arguments.passes,
        "encoder_seconds": seconds,
        "published": {"accuracy": 0.864, "entropy_rest_over_first": 3.7, "encoder": "ResNet50, ImageNet's weights"},
    }
    for name, noise in HEADS.items():
        started = time.monotonic()
        model = head(kept, pictures[rows["head"]], labels[rows["head"]], noise, seed=0)
        results[name] = judged(model, pictures[rows["test"]], labels[rows["test"]], arguments.draws)
        results[name]["seconds"] = time.monotonic() - started
        print(name, results[name], flush=True)
    finish(results)


if __name__ == "__main__":
    main()
