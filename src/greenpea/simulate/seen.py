"""What can be seen: how detectable each component is in the picture, and what an unconfused volunteer would say.

Truth is soft. A spiral that seeing has smeared *is* smooth for whoever looks at the picture, so the truth
of a question is the probability that an ideal volunteer gives each answer, not what the galaxy was made of.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from greenpea.simulate.light import Layer
from greenpea.simulate.population import Properties, axis_ratio, half_light_radius_arcsec, is_disk
from greenpea.simulate.telescope import POISSON, Scene, pixel_arcsec, seeing_pixels, sky_noise
from greenpea.tree import DecisionTree

Array = Float[np.ndarray, " subject"]

# The eye does not see contrasts below about a tenth, however bright the galaxy.
EYE_CONTRAST = 0.10
# Detectability at which half of the ideal volunteers notice a component, and how steeply that rises.
HALF_SEEN = {
    "arms": 8.0,
    "clumps": 9.0,
    "bar": 6.0,
    "ring": 7.0,
    "dust": 6.0,
    "tails": 20.0,
    "companion": 9.0,
    "arc": 4.0,
}
STEEPNESS = 2.2


def visibilities(layers: Mapping[str, Layer], scene: Scene, p: Properties) -> dict[str, Array]:
    """Return, per component, the share of ideal volunteers who would notice it (0 where it is absent).

    ``layers`` are blurred, ``scene`` is without noise. An ideal observer's detectability, limited by the
    eye's contrast, is turned into a share by a log-logistic curve.
    """
    size = scene.shape[-1]
    sky = sky_noise(p, size)[:, None, None] ** 2
    # Resolution elements, in pixels: the eye's limit holds for each of them, not for each pixel.
    beam = np.maximum(4 * np.pi * seeing_pixels(p, size) ** 2, 1)[:, None, None]
    area = pixel_arcsec(p, size)[:, None, None] ** 2
    seen = {}
    for name, half in HALF_SEEN.items():
        layer, seen[name] = layers[name], np.zeros(len(sky))
        light = scene[1][layer.rows]
        variance = sky[layer.rows] + POISSON / area[layer.rows] * light
        variance += beam[layer.rows] * (EYE_CONTRAST * light) ** 2
        # d′² = Σ Δ² / (σ² + B (ε I)²): signal-to-noise of a matched filter (Green & Swets 1966)
        detectability = np.sqrt((layer.light**2 / variance).sum(axis=(1, 2), dtype=np.float64))
        seen[name][layer.rows] = 1 / (1 + (half / np.maximum(detectability, 1e-9)) ** STEEPNESS)
    tilt = np.sqrt(axis_ratio(p))
    seen["bar"] *= _resolved(tilt * p["bar_length"], 0.9, p)
    seen["arms"] *= _resolved(tilt * p["arm_end"], 2.0, p)
    seen["ring"] *= _resolved(tilt * p["ring_radius"], 0.9, p)
    seen["dust"] *= _resolved(2.35 * p["dust_width"], 0.75, p)
    return seen


def _resolved(length: Array, beams: float, p: Properties) -> Array:
    """Return a share that falls from 1 to 0 as a length in half-light radii sinks below ``beams`` seeing disks."""
    apparent = np.maximum(length, 1e-3) * half_light_radius_arcsec(p)
    return _rise(np.log(apparent / (beams * p["seeing_arcsec"])), 0.22)


def _rise(x: np.ndarray, width: float) -> np.ndarray:
    """Return the logistic function of x / width: 0 far below zero, 1 far above."""
    return np.asarray(1 / (1 + np.exp(-x / width)))


def apparent_axis_ratio(p: Properties) -> Array:
    """Return the axis ratio after the point-spread function has rounded the galaxy."""
    share = np.where(is_disk(p), p["bulge_to_total"], 1.0)
    blur = (p["seeing_arcsec"] / 2.3548 / half_light_radius_arcsec(p)) ** 2
    # Second moments: ⟨x²⟩ = f_b R_b² + f_d R_d² + σ², ⟨y²⟩ with each R shortened by its axis ratio
    body = share * p["bulge_radius"] ** 2
    long = body + (1 - share) + blur
    short = body * p["bulge_axis_ratio"] ** 2 + (1 - share) * axis_ratio(p) ** 2 + blur
    return np.asarray(np.sqrt(short / long))


# ---- what an ideal volunteer answers -----------------------------------------------------------------


def truth(p: Properties, seen: Mapping[str, Array], tree: DecisionTree) -> dict[str, np.ndarray]:
    """Return, per question of the Galaxy Zoo DECaLS tree, the probability of each answer [subject, answer]."""
    noticed = _noticed(p, seen)
    shares = {
        "smooth-or-featured": _smooth_or_featured(p, noticed),
        "how-rounded": _how_rounded(p),
        "disk-edge-on": _edge_on(p),
        "edge-on-bulge": _edge_on_bulge(p),
        "bar": _bar(p, seen, noticed),
        "has-spiral-arms": _spiral_arms(seen, noticed),
        "spiral-winding": _winding(p, seen),
        "spiral-arm-count": _arm_count(p, seen),
        "bulge-size": _bulge_size(p),
        "merging": _merging(p, seen),
        "rare-features": _rare(p, seen),
    }
    answers: dict[str, np.ndarray] = {}
    for question in tree.questions:
        stacked = np.stack([np.clip(shares[question.slug][a], 0, 1) for a in question.answer_slugs], axis=1)
        if question.kind == "single":
            stacked /= stacked.sum(axis=1, keepdims=True)
        answers[question.slug] = stacked
    return answers


def _edge_on(p: Properties) -> dict[str, Array]:
    yes = _rise(0.31 - apparent_axis_ratio(p), 0.035)
    return {"yes": yes, "no": 1 - yes}


def _noticed(p: Properties, seen: Mapping[str, Array]) -> Array:
    """Return the share of ideal volunteers who see any feature, or a disk for what it is."""
    flat = (1 - p["bulge_to_total"]) * is_disk(p)
    disk = 0.75 * flat * _rise(0.47 - apparent_axis_ratio(p), 0.06)
    edge_on = 0.9 * _edge_on(p)["yes"] * is_disk(p)
    unseen = (1 - 0.04) * (1 - disk) * (1 - edge_on)
    for name, share in {"arms": 1, "bar": 0.85, "ring": 0.9, "clumps": 0.9, "tails": 0.35, "dust": 0.4}.items():
        unseen = unseen * (1 - share * seen[name])
    return np.asarray(1 - unseen * (1 - 0.2 * seen["companion"] * p["interacting"]))


def artifact_share(p: Properties) -> Array:
    """Return the share of ideal volunteers who answer "artifact"."""
    reach = np.array([0.0, 0.92, 0.55, 0.9])[p["artifact"]]
    return np.asarray(0.01 + reach * _rise(p["artifact_severity"] - 0.55, 0.12))


def _smooth_or_featured(p: Properties, noticed: Array) -> dict[str, Array]:
    artifact = artifact_share(p)
    return {
        "smooth": (1 - artifact) * (1 - noticed),
        "featured-or-disk": (1 - artifact) * noticed,
        "artifact": artifact,
    }


def _how_rounded(p: Properties) -> dict[str, Array]:
    q = apparent_axis_ratio(p)
    round_, cigar = _rise(q - 0.80, 0.035), _rise(0.43 - q, 0.03)
    return {"round": round_, "in-between": 1 - round_ - cigar, "cigar-shaped": cigar}


def _edge_on_bulge(p: Properties) -> dict[str, Array]:
    none = _rise(np.log10(0.07) - np.log10(np.maximum(p["bulge_to_total"], 1e-3)), 0.10)
    resolved = _rise(np.log(p["bulge_radius"] * half_light_radius_arcsec(p) / (0.6 * p["seeing_arcsec"])), 0.3)
    boxy = p["boxiness"] * resolved
    return {"none": none, "boxy": (1 - none) * boxy, "rounded": (1 - none) * (1 - boxy)}


def _given(share: Array, noticed: Array, floor: float) -> Array:
    """Return the share among those who noticed anything: who sees arms has seen a feature."""
    return np.asarray(np.clip(share / noticed, floor, 0.98))


def _bar(p: Properties, seen: Mapping[str, Array], noticed: Array) -> dict[str, Array]:
    # Those who came for another feature look for the bar too: a share between all and those who notice any.
    bar = _given(seen["bar"], np.sqrt(noticed), 0.03)
    strong = _rise(p["bar_strength"] - 0.5, 0.06)
    return {"no": 1 - bar, "weak": bar * (1 - strong), "strong": bar * strong}


def _spiral_arms(seen: Mapping[str, Array], noticed: Array) -> dict[str, Array]:
    yes = _given(seen["arms"], noticed, 0.03)
    return {"yes": yes, "no": 1 - yes}


def _open(p: Properties) -> Array:
    """Return how well arms can be followed round a disk: foreshortening hides half of every turn."""
    return _rise(axis_ratio(p) - 0.38, 0.06)


def _winding(p: Properties, seen: Mapping[str, Array]) -> dict[str, Array]:
    clear = seen["arms"] * _open(p) * (1 - 0.4 * p["flocculence"])
    # Pitch half-way along the visible arms: d(winding) / d(ln r) = (1 − 2 bend ln(r/r₀)) / tan(pitch)
    half_way = np.log(0.5 * (p["arm_end"] + p["arm_start"]) / np.maximum(p["arm_start"], 0.1))
    slope = np.tan(np.radians(p["pitch_angle_deg"])) / np.maximum(1 - 2 * p["arm_bend"] * half_way, 0.2)
    pitch = np.degrees(np.arctan(slope))
    tight, loose = _rise(15 - pitch, 1.5), _rise(pitch - 24, 1.5)
    known = {"tight": tight, "medium": 1 - tight - loose, "loose": loose}
    guess = {"tight": 0.35, "medium": 0.45, "loose": 0.20}
    return {answer: clear * share + (1 - clear) * guess[answer] for answer, share in known.items()}


def _arm_count(p: Properties, seen: Mapping[str, Array]) -> dict[str, Array]:
    clear = seen["arms"] * _open(p) * np.clip(1.15 - 1.5 * p["flocculence"], 0, 1) * (1 - 0.25 * p["arm_unevenness"])
    guess = {"1": 0.04, "2": 0.20, "3": 0.06, "4": 0.04, "more-than-4": 0.11, "cant-tell": 0.55}
    number = np.minimum(p["arm_count"], 5)
    shares = {}
    for index, (answer, guessed) in enumerate(guess.items()):
        away = np.abs(number - index - 1) if answer != "cant-tell" else np.full(len(number), 9)
        known = np.select([away == 0, away == 1], [0.88, 0.05], default=0.01)
        shares[answer] = clear * known + (1 - clear) * guessed
    return shares


def _bulge_size(p: Properties) -> dict[str, Array]:
    share = np.log10(np.maximum(p["bulge_to_total"], 1e-3))
    # Share of volunteers who place the bulge above each border between neighbouring answers.
    above = [np.ones_like(share), *(_rise(share - np.log10(edge), 0.07) for edge in (0.025, 0.11, 0.30, 0.62))]
    above.append(np.zeros_like(share))
    names = ("none", "small", "moderate", "large", "dominant")
    return {name: above[i] - above[i + 1] for i, name in enumerate(names)}


def _merging(p: Properties, seen: Mapping[str, Array]) -> dict[str, Array]:
    together, beside = p["interacting"] > 0, seen["companion"]
    merger = np.where(together, 0.9 * beside, 0.15 * beside)
    disturbed = (1 - merger) * np.maximum(seen["tails"], 0.25 * seen["clumps"])
    major = _rise(p["disturbance"] - 0.5, 0.08)
    return {
        "merger": merger,
        "major-disturbance": disturbed * major,
        "minor-disturbance": disturbed * (1 - major),
        "none": 1 - merger - disturbed,
    }


def _rare(p: Properties, seen: Mapping[str, Array]) -> dict[str, Array]:
    beside, apart = seen["companion"], p["interacting"] == 0
    features = {
        "ring": 0.92 * seen["ring"],
        "lens-or-arc": 0.85 * seen["arc"],
        "irregular": 0.8 * seen["clumps"] + 0.15 * seen["tails"],
        "dust-lane": 0.88 * seen["dust"],
        "overlapping": np.where(apart, 0.85, 0.15) * beside,
        "something-else": 0.01 + 0.10 * seen["tails"] + 0.15 * artifact_share(p),
    }
    nothing = np.prod([1 - share for share in features.values()], axis=0)
    return features | {"nothing-unusual": nothing}
