"""Learning an encoder from images alone: two views of one image should have one embedding (VICReg, Bardes+2022).

The loss pulls the two views together (invariance), keeps every coordinate spread over the batch (variance), and keeps
coordinates from telling the same (covariance), so that nothing collapses, without negative pairs or large batches.
No vote is looked at: what is learned may be judged by all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, relu

from greenpea.errors import GreenpeaError
from greenpea.images import Preparation
from greenpea.learning import encoders, orientation, training
from greenpea.learning.batches import augment, to_unit
from greenpea.learning.kept import KeptEncoder
from greenpea.learning.model import Report, silent
from greenpea.learning.settings import Augmentation, Learning, Recipe

MOST = 20_000  # images that are learned from, chosen at random
SEEN = 150_000  # images seen in all, each in two views
FEWEST = 32
BATCH = 128
INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0  # the paper's weights
WIDER = 2  # the projector is so many times as wide as the embedding
KEPT_ASIDE = 0.05
ZOOM, SHIFT, LIGHT, NOISE = 0.25, 0.1, 0.2, 0.03  # how the views differ, beyond what is asked of a supervised one


def learn(
    images: np.ndarray,
    preparation: Preparation,
    settings: Learning,
    start: KeptEncoder | None = None,
    report: Report = silent,
) -> KeptEncoder:
    """Learn an encoder from prepared images [subject, channel, y, x], none of whose votes it sees.

    ``start`` gives its weights to begin with, where its kind and width are those of ``settings``. ``settings.epochs``
    other than "auto" is how often each image is seen. Raises GreenpeaError where there are fewer than `FEWEST` images,
    and where training diverges.
    """
    if len(images) < FEWEST:
        raise GreenpeaError(
            f"{len(images)} images are too few to learn an encoder from ({FEWEST} are needed): "
            f"set loop.encoder = 'shipped'"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return _learn(images, preparation, settings, start, report)


def _learn(
    images: np.ndarray, preparation: Preparation, settings: Learning, start: KeptEncoder | None, report: Report
) -> KeptEncoder:
    channels = images.shape[1]
    encoder = encoders.build(settings.encoder, channels, preparation.size, settings.width, settings.published)
    if start and (start.name, start.width, start.channels) != (settings.encoder, settings.width, channels):
        start = None
    if start:
        encoder.load_state_dict(start.encoder.state_dict())
    network = nn.Sequential(encoder, _projector(encoder.embedding_size)).to(memory_format=torch.channels_last)
    order = np.random.default_rng(settings.seed).permutation(len(images))
    aside = max(FEWEST // 2, min(512, round(KEPT_ASIDE * len(images))))
    how = _views(images, settings)
    recipe = Recipe(
        epochs=max(5, min(100, SEEN // len(images))) if settings.epochs == "auto" else settings.epochs,
        learning_rate=settings.learning_rate / 3 if start else settings.learning_rate,
        weight_decay=settings.weight_decay,
    )

    def progress(epoch: int, history: training.History) -> None:
        words = f"views apart by {history.train[-1]:.2f}, kept aside {history.held_out[-1]:.2f}"
        report("learning from images", (epoch + 1) / recipe.epochs, words)

    report("learning from images", 0.0, f"{len(images):,} images")
    best, history = training.fit(
        network,
        Views(images, order[aside:], how, settings.seed),
        loss,
        held_out=Views(images, order[:aside], how, settings.seed, fixed=True),
        recipe=recipe,
        fabric=training.make_fabric(settings.precision, accelerator=settings.accelerator),
        progress=progress,
    )
    origin = f"{len(images):,} images of the campaign, no vote" + (f"; begun with {start.origin}" if start else "")
    return KeptEncoder(
        encoder=best[0].cpu(),
        preparation=preparation.model_copy(update={"channels": channels}),
        name=settings.encoder,
        width=settings.width,
        channels=channels,
        origin=origin,
        learned_from=start.learned_from if start else (),
        about={"epochs": len(history.train), "held_out": history.held_out[history.best_epoch]},
    )


def _projector(length: int) -> nn.Sequential:
    """What the loss looks at; thrown away afterwards, and with it the invariances that go too far."""
    wide = WIDER * length
    return nn.Sequential(
        nn.Linear(length, wide), nn.BatchNorm1d(wide), nn.ReLU(inplace=True), nn.Linear(wide, wide, bias=False)
    )


def _views(images: np.ndarray, settings: Learning) -> Augmentation:
    turned = settings.orientation
    if turned == "auto":
        turned = orientation.probe(images, np.arange(len(images)), np.random.default_rng(settings.seed)).orientation
    return Augmentation(
        orientation=turned,
        mirror=settings.mirror,
        zoom=max(settings.zoom, ZOOM),
        shift=max(settings.shift, SHIFT),
        erase=settings.erase,
    )


class Views:
    """Batches of two views each: [2·image, channel, y, x], the second views after the first.

    In random order and anew in each epoch; with ``fixed`` the same every time.
    """

    def __init__(self, images: np.ndarray, rows: np.ndarray, how: Augmentation, seed: int, fixed: bool = False) -> None:
        self.images, self.rows, self.how, self.seed, self.fixed = images, torch.from_numpy(rows), how, seed, fixed
        self.size = min(BATCH, len(rows))
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.rows) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.fixed:
            self.generator.manual_seed(self.seed)
        order = self.rows[torch.randperm(len(self.rows), generator=self.generator)]
        for rows in order.split(self.size)[: len(self)]:
            seen = to_unit(torch.from_numpy(self.images[rows.numpy()]))
            yield torch.cat([self._view(seen), self._view(seen)]), rows.repeat(2)

    def _view(self, images: Tensor) -> Tensor:
        moved = augment(images, self.how, self.generator)
        bright = 1 + LIGHT * (2 * torch.rand(len(images), 1, 1, 1, generator=self.generator) - 1)
        return moved * bright + NOISE * torch.randn(moved.shape, generator=self.generator)


def loss(projected: Tensor, rows: Tensor) -> Tensor:
    """Return VICReg's loss of two views [2·image, coordinate]; ``rows`` only say how many images there are."""
    first, second = projected.float().chunk(2)
    spread = relu(1 - _deviation(first)).mean() + relu(1 - _deviation(second)).mean()
    shared = _covariance(first) + _covariance(second)
    return INVARIANCE * mse_loss(first, second) + VARIANCE * spread / 2 + COVARIANCE * shared


def _deviation(values: Tensor) -> Tensor:
    return (values.var(dim=0) + 1e-4).sqrt()


def _covariance(values: Tensor) -> Tensor:
    """Return the sum of squares of the covariances between different coordinates, by coordinate."""
    centred = values - values.mean(dim=0)
    matrix = centred.T @ centred / (len(values) - 1)
    return (matrix - torch.diag(matrix.diagonal())).square().sum() / values.shape[1]
