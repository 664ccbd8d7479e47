"""Batches of images: normalised, and seen from another side each time.

Augmentation works on the whole batch: one affine map an image, so that flips, rotations, crops and shifts
together cost one interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from greenpea.learning.settings import Augmentation

# The order in memory that convolutions of two and three dimensions are fastest in, by the number of a batch's axes.
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def to_unit(arrays: Tensor) -> Tensor:
    """Return images, spectra or cubes as float32, channels last in memory; 8-bit ones divided by 255."""
    scaled = arrays.float() / 255.0 if arrays.dtype == torch.uint8 else arrays.float()
    return scaled.contiguous(memory_format=FORMATS.get(arrays.ndim, torch.contiguous_format))


def augment(
    images: Tensor, how: Augmentation, generator: torch.Generator, of: int | None = None, part: slice = slice(None)
) -> Tensor:
    """Return every image [batch, channel, y, x] mapped by a random affine transformation of its own.

    Where the images are a ``part`` ``of`` so many, they are mapped as they would be among them.
    """
    theta = _affine(of or len(images), how, generator)[part]
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    moved = grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    if how.erase:
        moved = _erase(moved, how.erase, generator, of or len(images), part)
    return moved.contiguous(memory_format=torch.channels_last)


def _affine(count: int, how: Augmentation, generator: torch.Generator) -> Tensor:
    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    angle = uniform(-math.pi, math.pi) if how.orientation == "any" else torch.zeros(count)
    scale = torch.exp(uniform(-1, 1) * math.log1p(how.zoom))
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0) if how.mirror else torch.ones(count)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    move = [uniform(-2 * how.shift, 2 * how.shift) for _ in range(2)]  # the grid spans [−1, 1]
    rows = [cosine * mirror, -sine, move[0], sine * mirror, cosine, move[1]]
    return torch.stack(rows, dim=1).reshape(count, 2, 3)


def _erase(images: Tensor, share: float, generator: torch.Generator, count: int, part: slice) -> Tensor:
    """Blank one square, a quarter to a half of the width, in a share of the images (DeVries & Taylor 2017)."""
    _, _, height, width = images.shape
    side = (0.25 + 0.25 * torch.rand(count, 1, generator=generator)) * width
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([height, width])
    y = (torch.arange(height) - centre[:, :1]).abs() < side / 2
    x = (torch.arange(width) - centre[:, 1:]).abs() < side / 2
    hit = torch.rand(count, 1, 1, generator=generator) < share
    mask = (y[:, :, None] & x[:, None, :] & hit)[part, None]
    return torch.where(mask, images.mean(dim=(2, 3), keepdim=True), images)


class ImageBatches:
    """Some rows of images and targets in random order, augmented anew in each epoch; the same for one seed.

    Without ``augmentation`` any arrays will do, and stay as they are.
    Holds no copy of the images: only the rows of one batch are gathered at a time.
    """

    def __init__(
        self,
        images: np.ndarray,
        rows: np.ndarray,
        targets: Tensor,
        batch_size: int,
        augmentation: Augmentation | None,
        seed: int = 0,
    ) -> None:
        self.images, self.rows, self.targets = images, torch.from_numpy(rows), targets
        self.batch_size, self.augmentation = batch_size, augmentation
        self.generator = torch.Generator().manual_seed(seed)
        self.rank, self.ranks = 0, 1

    def share(self, rank: int, ranks: int) -> ImageBatches:
        """Return a process's share of every batch: together they are what one process would see."""
        self.rank, self.ranks = rank, ranks
        return self

    def __len__(self) -> int:
        # A last, smaller batch of one or two images would upset batch normalisation.
        whole, rest = divmod(len(self.rows), self.batch_size)
        return max(1, whole + (rest >= self.batch_size / 2))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.rows[torch.randperm(len(self.rows), generator=self.generator)]
        for batch in range(len(self)):
            rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            mine = slice(self.rank, len(rows) // self.ranks * self.ranks, self.ranks)
            images = to_unit(torch.from_numpy(self.images[rows[mine].numpy()]))
            if self.augmentation is not None:
                images = augment(images, self.augmentation, self.generator, len(rows), mine)
            yield images, self.targets[rows[mine]]


class PlainBatches:
    """Some rows of images and targets in order, all of them, unchanged: for judging."""

    def __init__(self, images: np.ndarray, rows: np.ndarray, targets: Tensor, batch_size: int) -> None:
        self.images, self.rows, self.targets, self.batch_size = images, rows, targets, batch_size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.rows), self.batch_size):
            rows = self.rows[start : start + self.batch_size]
            yield to_unit(torch.from_numpy(self.images[rows])), self.targets[rows]
