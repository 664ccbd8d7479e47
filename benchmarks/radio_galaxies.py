"""Radio galaxies of two classes, FRI and FRII, by a variational network: its error, its doubt, and what pruning costs.

    python benchmarks/radio_galaxies.py [--work DIR] [--epochs 40] [--folds 5]

MiraBest (Porter & Scaife 2023): experts were confident of some sources and not of others. Networks learn from the
confident ones in all folds but one (hybrids left out) and are judged on that one; every uncertain source is judged by
the network of one fold, and none is learned from. Each network is variational in every weight, learned once at
temperature 0.01, a cold posterior (Wenzel+2020; Mohan+2022), and once at temperature 1.

Printed: the cross-validated error on confident sources at both temperatures; how well predictive entropy tells
uncertain sources from confident ones (AUC); the error where 30, 60 and 90 % of the weights are set to 0 by their
signal-to-noise, and where as many are picked at random, 20 times. With --work each network is kept, and found again
after a kill.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import rankdata
from torch import Tensor, nn

from common import data_folder, finish
from greenpea.calibration.labels import calibration_error, log_score
from greenpea.labels import LabelLayout, doubt
from greenpea.learning import training
from greenpea.learning.batches import ImageBatches, PlainBatches, to_unit
from greenpea.learning.families import LabelLoss
from greenpea.learning.settings import Augmentation, Recipe
from greenpea.learning.uncertainty import layers, variational
from greenpea.posterior import Posterior
from greenpea.tables import read_table

SIZE = 64
CLASSES = ("FRI", "FRII")
LAYOUT = LabelLayout(CLASSES, "none")
TEMPERATURES = (0.01, 1.0)
SHARES = (0.3, 0.6, 0.9)
MASKS = 20
BATCH = 32
Network = nn.Module


def sources() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images [source, 1, y, x] of the middle 128 pixels at half their scale, classes, and who is confident."""
    folder = data_folder("mirabest")
    table = read_table(folder / "labels.csv")
    names = np.array(table["class"].to_pylist(), str)
    images = np.load(folder / "images.npz")["images"]
    middle = images[:, 11:139, 11:139].reshape(len(images), SIZE, 2, SIZE, 2).mean(axis=(2, 4))
    chosen = np.isin(names, CLASSES)
    confident = np.array(table["confident"].to_pylist()).astype(int) == 1
    stretched = np.sqrt(middle[chosen, None] / 255).astype(np.float32)  # most of a source is faint
    return stretched, LAYOUT.codes(names[chosen]), confident[chosen]


def untrained(seed: int) -> Network:
    """Return a small network after LeNet (LeCun+1998) whose every weight is a Gaussian, 0.1 of its prior's width."""
    torch.manual_seed(seed)
    parts: list[nn.Module] = [nn.BatchNorm2d(1, affine=False)]  # the images' own mean and scale
    before = 1
    for channels, kernel, stride in ((8, 5, 2), (16, 3, 1), (32, 3, 1)):
        parts += [nn.Conv2d(before, channels, kernel, stride, kernel // 2), nn.ReLU(), nn.MaxPool2d(2)]
        before = channels
    parts += [nn.Flatten(), nn.Linear(before * (SIZE // 16) ** 2, 64), nn.ReLU(), nn.Linear(64, len(CLASSES))]
    return variational.of(nn.Sequential(*parts), variational.Gaussian(1.0), scaled=True)


def learned(images: np.ndarray, codes: np.ndarray, rows: np.ndarray, temperature: float, epochs: int) -> Network:
    """Return a network learned from these rows, seen from any side and mirrored; a seventh of them stop it."""
    order = np.random.default_rng(0).permutation(rows)
    kept, seen = order[: len(rows) // 7], order[len(rows) // 7 :]
    network, targets, loss = untrained(0), torch.from_numpy(codes), LabelLoss(LAYOUT)
    how = Augmentation(orientation="any", mirror=True, zoom=0.1, shift=0.03)
    best, _ = training.fit(
        network,
        ImageBatches(images, seen, targets, BATCH, how),
        variational.objective(network, loss, len(seen), temperature),
        held_out=PlainBatches(images, kept, targets, 256),
        recipe=Recipe(epochs=epochs, learning_rate=3e-3, patience=epochs),
        fabric=training.make_fabric("32-true", accelerator="cpu"),
    )
    return best.cpu().eval()


def found(images: np.ndarray, codes: np.ndarray, rows: np.ndarray, name: str, arguments: argparse.Namespace) -> Network:
    """Return the network called ``temperature-fold``, from the folder of work where it is there."""
    file = arguments.work / f"{name}-{arguments.epochs}.safetensors" if arguments.work else None
    if file and file.is_file():
        network = untrained(0)
        network.load_state_dict(load_file(file))
        return network.eval()
    network = learned(images, codes, rows, float(name.partition("-")[0]), arguments.epochs)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, file)
    return network


@torch.inference_mode()
def predicted(network: Network, images: np.ndarray, draws: int) -> Posterior:
    """Return the posterior of images: one pass a draw."""
    inputs: Tensor = to_unit(torch.from_numpy(images))
    generators = (torch.Generator().manual_seed(t) for t in range(draws))
    outputs = [layers.apply(network, variational.draw(network, one), inputs).numpy() for one in generators]
    return LAYOUT.posterior(np.stack(outputs, axis=1), np.arange(len(images)).astype(str).astype(object))


def wrong(posterior: Posterior, codes: np.ndarray) -> np.ndarray:
    """Return which classes are wrong."""
    return np.asarray(posterior.mean("label").argmax(axis=1) != codes)


def judged(networks: list[Network], images: np.ndarray, codes: np.ndarray, fold: np.ndarray, draws: int) -> Posterior:
    """Return the posterior of all sources, each by the network of its fold."""
    parts, rows = [], []
    for index, network in enumerate(networks):
        mine = np.flatnonzero(fold == index)
        parts.append(predicted(network, images[mine], draws))
        rows.append(mine)
    return Posterior.concatenate(parts).select(np.argsort(np.concatenate(rows)))


def separation(uncertain: np.ndarray, confident: np.ndarray) -> dict[str, Any]:
    """Return the AUC of values that should be larger for the first, with its 95 % interval by bootstrap."""

    def area(first: np.ndarray, second: np.ndarray) -> float:
        ranks = rankdata(np.concatenate([first, second]))[: len(first)]
        return float((ranks.sum() - len(first) * (len(first) + 1) / 2) / (len(first) * len(second)))

    rng = np.random.default_rng(0)
    again = [area(rng.choice(uncertain, len(uncertain)), rng.choice(confident, len(confident))) for _ in range(1000)]
    return {"auc": area(uncertain, confident), "interval": np.quantile(again, [0.025, 0.975]).tolist()}


def pruning(networks: list[Network], images: np.ndarray, codes: np.ndarray, fold: np.ndarray, draws: int) -> Any:
    """Return the errors of pruned networks: by signal-to-noise, and by chance."""
    whole = float(wrong(judged(networks, images, codes, fold, draws), codes).mean())
    table: dict[str, Any] = {"0": whole}
    for share in SHARES:
        by_ratio = [variational.prune(one, share) for one in networks]
        posterior = judged(by_ratio, images, codes, fold, draws)
        chance = []
        for mask in range(MASKS):
            random = torch.Generator().manual_seed(mask)
            picked = [variational.prune(one, share, random) for one in networks]
            chance.append(float(wrong(judged(picked, images, codes, fold, draws), codes).mean()))
        error = float(wrong(posterior, codes).mean())
        table[f"{share:g}"] = {
            "error": error,
            "costs": error - whole,
            "ece": calibration_error(posterior.mean("label"), codes, np.random.default_rng(0), bins=10).expected,
            "random_masks": {"mean": float(np.mean(chance)), "best": min(chance), "worst": max(chance)},
        }
        print(f"pruned {share:.0%}: error {error:.4f}, at random {np.mean(chance):.4f}", flush=True)
    return table


def figures(posterior: Posterior, codes: np.ndarray, confident: np.ndarray) -> dict[str, Any]:
    """Return error and calibration on confident sources, and how doubt tells the others from them."""
    miss, p = wrong(posterior, codes), posterior.mean("label")
    error, count = float(miss[confident].mean()), int(confident.sum())
    calibration = calibration_error(p[confident], codes[confident], np.random.default_rng(0), bins=10)
    kinds = doubt(posterior)._asdict()
    return {
        "error": error,
        "error_standard_error": float(np.sqrt(error * (1 - error) / count)),
        "error_on_uncertain_sources": float(miss[~confident].mean()),
        "log_score_nats": float(log_score(p[confident], codes[confident]).mean()),
        "ece": calibration.expected,
        "ece_null_95": calibration.null[1],
        "uncertain_from_confident": {
            kind: separation(values[~confident], values[confident]) for kind, values in kinds.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="a folder to keep the networks in")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--pruning-draws", type=int, default=3)
    arguments = parser.parse_args()
    started = time.monotonic()
    images, codes, confident = sources()
    fold = np.random.default_rng(1).permutation(len(codes)) % arguments.folds
    results: dict[str, Any] = {
        "benchmark": "radio_galaxies",
        "confident": int(confident.sum()),
        "uncertain": int((~confident).sum()),
    }
    networks: dict[float, list[Network]] = {}
    for temperature in TEMPERATURES:
        networks[temperature] = []
        for index in range(arguments.folds):
            rows = np.flatnonzero(confident & (fold != index))
            networks[temperature].append(found(images, codes, rows, f"{temperature:g}-{index}", arguments))
            print(f"temperature {temperature:g}, fold {index}: {time.monotonic() - started:.0f} s", flush=True)
        posterior = judged(networks[temperature], images, codes, fold, arguments.draws)
        results[f"temperature_{temperature:g}"] = figures(posterior, codes, confident)
        print(results[f"temperature_{temperature:g}"], flush=True)
    weights = len(variational.signal_to_noise(networks[TEMPERATURES[0]][0]))
    some = np.flatnonzero(confident)
    table = pruning(networks[TEMPERATURES[0]], images[some], codes[some], fold[some], arguments.pruning_draws)
    finish(results | {"weights": weights, "pruning": table, "seconds": time.monotonic() - started})


if __name__ == "__main__":
    main()
