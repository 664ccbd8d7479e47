"""Galaxies with known truth: a seed in, pictures and what can be seen in them out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from greenpea.errors import GreenpeaError
from greenpea.simulate import seen, telescope
from greenpea.simulate.light import layers
from greenpea.simulate.population import Drawn, Properties, population, subject_names
from greenpea.tree import DecisionTree

TREE = "gz-decals-5"
# Galaxies are drawn and rendered in blocks of this many, each with its own random stream, always whole:
# that is why galaxy i is the same to the last bit however many are asked for.
BLOCK = 64
SMALLEST, LARGEST = 16, 1024


@dataclass(frozen=True, eq=False)
class Galaxies:
    """Simulated subjects on the Galaxy Zoo DECaLS tree.

    ``images``: colour pictures (z, r, g as red, green, blue). ``truth[question]``: the probability that an
    ideal, unconfused volunteer who reaches the question gives each answer; rows sum to 1 unless the question
    is ``multiple``. ``properties``: what the galaxies are (units in `GLOSSARY`), and as ``…_seen`` the share
    of ideal volunteers who would notice each component.
    """

    subject_ids: np.ndarray
    images: UInt8[np.ndarray, "subject y x 3"]
    truth: Mapping[str, Float[np.ndarray, "subject answer"]]
    properties: Mapping[str, Shaped[np.ndarray, " subject"]]

    def __len__(self) -> int:
        return len(self.subject_ids)


def galaxies(count: int, seed: int, size: int = 64) -> Galaxies:
    """Simulate ``count`` galaxies as pictures of ``size`` × ``size`` pixels.

    The same seed gives the same bytes on the same machine, and galaxy i is the same whatever the ``count``.
    At another ``size`` it is the same galaxy in the same field, with other noise.
    """
    _check(count, size)
    whole = -(-count // BLOCK) * BLOCK
    return _observe(properties(whole, seed), count, seed, size)


def properties(count: int, seed: int) -> Drawn:
    """Return what `galaxies` of this seed are, without rendering them: one array per property (`GLOSSARY`)."""
    _check(count, SMALLEST)
    parts = [population(BLOCK, _rng(seed, block, 0)) for block in range(-(-count // BLOCK))]
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


def observe(properties: Properties, seed: int, size: int = 64) -> Galaxies:
    """Render galaxies of chosen properties (`properties`, changed at will) under the sky of ``seed``."""
    count = len(properties["redshift"])
    _check(count, size)
    # A last block that is short is filled up with the last galaxy, which is then cut off again.
    rows = np.minimum(np.arange(-(-count // BLOCK) * BLOCK), count - 1)
    return _observe({name: np.asarray(values)[rows] for name, values in properties.items()}, count, seed, size)


def _check(count: int, size: int) -> None:
    if count < 1:
        raise GreenpeaError(f"cannot simulate {count} galaxies: ask for at least one")
    if not SMALLEST <= size <= LARGEST:
        raise GreenpeaError(f"pictures of {size} pixels a side: choose between {SMALLEST} and {LARGEST}")


def _rng(seed: int, block: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(block, purpose)))


@cache
def _tree() -> DecisionTree:
    return DecisionTree.load(TREE)


def _observe(whole: Properties, count: int, seed: int, size: int) -> Galaxies:
    """Render whole blocks, several at a time, and return the first ``count`` galaxies."""
    blocks = range(len(whole["redshift"]) // BLOCK)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, len(blocks))) as threads:
        parts = list(threads.map(partial(_render, whole, seed=seed, size=size), blocks))
    images, truths, shown = zip(*parts, strict=True)
    return Galaxies(
        subject_ids=subject_names(count),
        images=np.concatenate(images)[:count],
        truth={slug: np.concatenate([part[slug] for part in truths])[:count] for slug in truths[0]},
        properties={name: np.concatenate([part[name] for part in shown])[:count] for name in shown[0]},
    )


def _render(
    whole: Properties, block: int, seed: int, size: int
) -> tuple[UInt8[np.ndarray, "row y x 3"], dict[str, np.ndarray], Drawn]:
    """Return one block's pictures, their truth, and the properties with what is seen of them."""
    p = {name: values[block * BLOCK : (block + 1) * BLOCK] for name, values in whole.items()}
    rng = _rng(seed, block, 1)
    light = telescope.blur(layers(p, size), p, size)
    scene = telescope.compose(light, BLOCK, size)
    noticed = seen.visibilities(light, scene, p)
    telescope.add_field(scene, p, rng)
    telescope.observe(scene, p, rng)
    telescope.add_artifacts(scene, p)
    shown = {**p, **{f"{name}_seen": share for name, share in noticed.items()}}
    return telescope.stretch(scene), seen.truth(p, noticed, _tree()), shown
