"""Do images have an up? Asked of the images themselves, so that photographs are not trained upside down."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d, one_hot

GRID = 8  # cells a side of the coarse picture that the probe sees
MOST = 2000  # images the probe looks at
CHANCE = 0.25


class Verdict(NamedTuple):
    """What the probe found: the orientation, and in which share of images it told the four turns apart."""

    orientation: Literal["any", "upright"]
    accuracy: float


def probe(images: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> Verdict:
    """Tell whether a linear classifier on coarse pictures knows by how many quarter turns each was turned.

    Fitted by least squares on half of up to 2,000 ``rows`` of images [subject, channel, y, x], judged on the others.
    Pictures of the sky leave it at one in four; photographs do not.
    """
    rows = rng.permutation(rows)[:MOST]
    coarse = adaptive_avg_pool2d(torch.from_numpy(images[rows]).float(), GRID)
    coarse = (coarse - coarse.mean((2, 3), keepdim=True)) / (coarse.std((2, 3), keepdim=True) + 1e-6)
    half = len(rows) // 2
    if half < 20:
        return Verdict("any", CHANCE)
    weights = _least_squares(*_turned(coarse[:half]))
    inputs, turns = _turned(coarse[half:])
    accuracy = float(((inputs @ weights).argmax(1) == turns).double().mean())
    # The four turns of one image are not independent; its count of images is what the noise goes by.
    surprise = 4 * (CHANCE * (1 - CHANCE) / (len(rows) - half)) ** 0.5
    return Verdict("upright" if accuracy > CHANCE + max(surprise, 0.05) else "any", accuracy)


def _turned(coarse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    turned = torch.cat([coarse.rot90(turn, (2, 3)) for turn in range(4)]).flatten(1).double()
    inputs = torch.cat([turned, torch.ones(len(turned), 1, dtype=torch.float64)], dim=1)
    return inputs, torch.arange(4).repeat_interleave(len(coarse))


def _least_squares(inputs: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    ridge = inputs.T @ inputs + 0.1 * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.float64)
    return torch.linalg.solve(ridge, inputs.T @ one_hot(turns, 4).double())
