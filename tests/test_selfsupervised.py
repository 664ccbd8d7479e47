"""Learning from images alone: on two kinds of tiny images that nobody has told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from greenpea.errors import GreenpeaError
from greenpea.images import Preparation
from greenpea.learning import encoders, selfsupervised
from greenpea.learning.kept import KeptEncoder
from greenpea.learning.settings import Augmentation, Learning

TINY = Learning(width=4, epochs=25, precision="32-true", orientation="any", seed=1)


def two_kinds(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Stripes or spots, of any direction, place and brightness, in noise; and which of the two."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, count)
    y, x = np.mgrid[-1:1:24j, -1:1:24j]
    angle, phase, other = rng.uniform(0, 2 * np.pi, (3, count, 1, 1))
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    stripes, spots = np.sin(9 * along + phase), np.sin(9 * along + phase) * np.sin(9 * across + other)
    pattern = np.where(kind[:, None, None] == 1, stripes, 1.4 * spots) * rng.uniform(15, 30, (count, 1, 1))
    images = 120 + pattern[:, None] + rng.normal(0, 12, (count, 3, 24, 24)) + rng.normal(0, 15, (count, 1, 1, 1))
    return images.clip(0, 255).astype(np.uint8), kind


def told_apart(encoder: KeptEncoder) -> float:
    """In which share of new images the nearest of the others is of the same kind."""
    images, kind = two_kinds(400, 9)
    values = encoder.embed(images, "32-true")
    values = (values - values.mean(0)) / values.std(0)
    apart = ((values[:, None] - values[None]) ** 2).sum(-1)
    np.fill_diagonal(apart, np.inf)
    return float((kind[apart.argmin(1)] == kind).mean())


def untrained() -> KeptEncoder:
    torch.manual_seed(1)
    encoder = encoders.build("residual", 3, 24, 4)
    images, _ = two_kinds(200, 3)
    encoder.train()(torch.from_numpy(images).float() / 255)  # its batch statistics, as any encoder has them
    return KeptEncoder(encoder.eval(), Preparation(size=24, channels=3), "residual", 4, 3, "random")


def test_kinds_that_nobody_named_are_told_apart_better_than_by_a_random_encoder() -> None:
    images, _ = two_kinds(600, 0)
    said: list[float] = []
    learned = selfsupervised.learn(
        images, Preparation(size=24), TINY, report=lambda stage, share, words: said.append(share)
    )
    assert told_apart(learned) > told_apart(untrained()) + 0.05
    assert said[0] == 0.0
    assert said[-1] == 1.0
    assert learned.learned_from == ()
    images, _ = two_kinds(300, 5)
    spread = learned.embed(images, "32-true").std(0)
    assert spread.min() > 0.1  # no coordinate has collapsed


def test_the_same_seed_learns_the_same_encoder_and_a_start_is_taken_where_it_fits() -> None:
    images, _ = two_kinds(64, 0)
    short = TINY.model_copy(update={"epochs": 1})
    first, second = (selfsupervised.learn(images, Preparation(size=24), short) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    begun = selfsupervised.learn(images, Preparation(size=24), short, start=first)
    assert "begun with" in begun.origin
    wider = selfsupervised.learn(images, Preparation(size=24), short.model_copy(update={"width": 6}), start=first)
    assert "begun with" not in wider.origin


def test_the_loss_is_least_for_views_that_agree_spread_and_do_not_repeat_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(2000)
    good = torch.randn(1000, 4, generator=generator) * 1.1
    other = torch.randn(1000, 4, generator=generator) * 1.1
    agreeing = selfsupervised.loss(torch.cat([good, good]), rows)
    assert agreeing < 0.1
    assert selfsupervised.loss(torch.cat([good, other]), rows) > 40  # 25 × the mean of (a − b)², 2 × 1.21
    collapsed = torch.zeros(2000, 4)
    assert selfsupervised.loss(collapsed, rows) == pytest.approx(25 * 0.99, abs=0.01)
    repeated = good[:, :1].repeat(2, 4)
    assert selfsupervised.loss(repeated, rows) > agreeing + 5


def test_views_are_anew_in_each_epoch_but_the_same_where_judged() -> None:
    images, _ = two_kinds(40, 0)
    how = Augmentation(zoom=0.2, shift=0.1)
    changing, fixed = (selfsupervised.Views(images, np.arange(40), how, 0, fixed) for fixed in (False, True))
    first, second = ([seen for seen, _ in views] for views in (changing, changing))
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[0][:40], first[0][40:])
    first, second = ([seen for seen, _ in views] for views in (fixed, fixed))
    assert torch.equal(first[0], second[0])


def test_too_few_images_are_refused() -> None:
    images, _ = two_kinds(20, 0)
    with pytest.raises(GreenpeaError, match="20 images are too few to learn an encoder from"):
        selfsupervised.learn(images, Preparation(size=24), TINY)


def test_the_projector_is_thrown_away() -> None:
    images, _ = two_kinds(64, 0)
    learned = selfsupervised.learn(images, Preparation(size=24), TINY.model_copy(update={"epochs": 1}))
    assert isinstance(learned.encoder, encoders.Encoder)
    assert isinstance(learned.encoder, nn.Module)
    assert learned.length == learned.encoder.embedding_size
