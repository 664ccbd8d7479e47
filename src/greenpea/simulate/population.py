"""The simulated population: what every galaxy is, before anybody looks at it.

A galaxy is a row of a `Properties` dictionary. Lengths named ``…_radius``, ``…_length``, ``…_width`` or
``…_distance`` without a unit are in half-light radii of the galaxy itself, angles ``…_deg`` in degrees,
strengths and contrasts between 0 (absent) and 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped

Properties = Mapping[str, Shaped[np.ndarray, " subject"]]
Drawn = dict[str, np.ndarray]

KINDS = ("elliptical", "lenticular", "spiral", "irregular")
KIND_SHARES = (0.30, 0.13, 0.46, 0.11)
ARTIFACTS = ("none", "star", "trail", "gap")
ARTIFACT_SHARES = (0.935, 0.03, 0.015, 0.02)

# Per kind: half-light radius / kpc, its scatter / e-folds; mean r-band surface brightness within it at
# redshift 0 / mag arcsec⁻², its scatter / mag (close to Shen+2003 and Graham & Worley 2008).
RADIUS_KPC = np.array([[4.6, 0.45], [3.8, 0.35], [5.8, 0.35], [3.2, 0.40]])
BRIGHTNESS = np.array([[21.1, 0.60], [21.5, 0.50], [22.1, 0.55], [22.8, 0.60]])
# Per kind: rest-frame colours g − r and r − z of its old stars, / mag.
OLD_COLOUR = np.array([[0.74, 0.62], [0.70, 0.58], [0.58, 0.48], [0.34, 0.22]])

HUBBLE_DISTANCE_MPC = 299_792.458 / 67.7
OMEGA_MATTER = 0.31
EDGE_ON_DEG = 74.0  # from here on the disk's thickness is drawn, and nothing in its plane is


def population(count: int, rng: np.random.Generator) -> Drawn:
    """Draw ``count`` galaxies: their properties, seeing and depth, one array per property (see `GLOSSARY`)."""
    p: Drawn = {"kind": rng.choice(len(KINDS), count, p=KIND_SHARES)}
    draws = (_body, _bulge, _bar, _arms, _ring, _disturbance, _companion, _rare, _artifact, _colours, _sky)
    for draw in (*draws, _field_of_view):
        p |= draw(p, count, rng)
    return p


# What each property means, with its unit.
GLOSSARY = {
    "kind": "index into elliptical, lenticular, spiral, irregular",
    "redshift": "cosmological redshift",
    "half_light_radius_kpc": "half-light radius of the disk (of the whole for ellipticals), kpc",
    "surface_brightness": "mean r-band surface brightness within it, face-on, at redshift 0, mag arcsec⁻²",
    "inclination_deg": "0 face-on, 90 edge-on",
    "position_angle_deg": "of the major axis, from the image's x axis towards its y axis",
    "thickness": "intrinsic axis ratio of the disk",
    "bulge_to_total": "share of the light in the bulge; 1 for ellipticals",
    "bulge_radius": "effective radius of the bulge",
    "bulge_axis_ratio": "its projected axis ratio",
    "sersic_index": "its Sérsic index",
    "boxiness": "of a bulge seen from the side: 0 elliptical isophotes, 1 a box",
    "bar_strength": "0 no bar; below 0.5 weak, above strong",
    "bar_length": "semi-major axis of the bar",
    "bar_axis_ratio": "its minor over its major axis",
    "bar_angle_deg": "in the plane of the disk, from the line of nodes",
    "arm_count": "number of spiral arms, 0 to 6",
    "pitch_angle_deg": "angle between an arm and a circle where it begins: small is tightly wound",
    "arm_contrast": "share of the disk's light that is gathered into arms",
    "arm_sharpness": "concentration of an arm's azimuthal profile",
    "arm_start": "radius where the arms begin",
    "arm_end": "radius where they fade",
    "arm_phase_deg": "angle of the first arm where it begins",
    "arm_sense": "+1 or −1: which way the arms wind",
    "arm_unevenness": "0 equal arms, 1 one side only",
    "arm_bend": "change of the winding with radius, per e-fold: above 0 the arms open outwards",
    "flocculence": "0 grand design, 1 only torn segments",
    "clumpiness": "contrast of knots of young stars",
    "ring_strength": "brightness of the ring against the disk",
    "ring_radius": "its radius",
    "ring_width": "its width",
    "disturbance": "strength of warps and tidal tails",
    "tail_angle_deg": "direction of the first tail; of the brighter arms or clumps",
    "tail_count": "1 or 2",
    "tail_sharpness": "concentration of a tail's azimuthal profile: small is a fan",
    "companion_flux": "light of a second galaxy over this one's; 0 when alone",
    "companion_distance": "projected distance to it",
    "companion_angle_deg": "direction to it",
    "companion_radius": "its half-light radius",
    "companion_axis_ratio": "its axis ratio",
    "companion_position_angle_deg": "its position angle",
    "companion_index": "its Sérsic index",
    "interacting": "1 a merger, 0 a chance overlap",
    "arc_strength": "brightness of gravitationally lensed arcs",
    "arc_radius": "their radius",
    "arc_angle_deg": "direction of the brightest; chance for textures and artifacts",
    "dust_strength": "optical depth of a dust lane in g",
    "dust_width": "its half thickness (standard deviation)",
    "dust_angle_deg": "tilt of the lane to the major axis",
    "artifact": "index into none, star, trail, gap",
    "artifact_severity": "0 harmless, 1 nothing else to see",
    "artifact_angle_deg": "direction of spikes, trail or gap",
    "artifact_offset": "its distance from the centre, in half fields of view, −1 to 1",
    "old_g_r": "rest-frame g − r of the old stars, mag",
    "old_r_z": "rest-frame r − z of the old stars, mag",
    "young_g_r": "rest-frame g − r of arms, knots and clumps, mag",
    "young_r_z": "rest-frame r − z of arms, knots and clumps, mag",
    "seeing_arcsec": "full width at half maximum of the point-spread function in r, arcsec",
    "depth": "r-band surface brightness of the sky noise (1 σ) in one square arcsecond, mag arcsec⁻²",
    "field_of_view_arcsec": "side of the image, arcsec",
}


def subject_names(count: int) -> np.ndarray:
    """Return ``sim-000001``, ``sim-000002``, …"""
    return np.array([f"sim-{number:06d}" for number in range(1, count + 1)], dtype=object)


def is_disk(p: Properties) -> np.ndarray:
    """Return which galaxies have a disk: all but the ellipticals."""
    return p["kind"] > 0


def half_light_radius_arcsec(p: Properties) -> np.ndarray:
    """Return the apparent half-light radius in arcsec, in a flat ΛCDM universe (H₀ = 67.7 km/s/Mpc, Ωₘ = 0.31)."""
    z = np.linspace(0.0, 1.0, 513)
    # E(z) = √(Ωₘ (1 + z)³ + 1 − Ωₘ),  D_A = c / H₀ ∫ dz / E / (1 + z)
    slowness = 1.0 / np.sqrt(OMEGA_MATTER * (1 + z) ** 3 + 1 - OMEGA_MATTER)
    comoving = np.concatenate([[0.0], np.cumsum((slowness[1:] + slowness[:-1]) / 2 * np.diff(z))])
    distance_kpc = 1e3 * HUBBLE_DISTANCE_MPC * np.interp(p["redshift"], z, comoving) / (1 + p["redshift"])
    return np.asarray(np.degrees(p["half_light_radius_kpc"] / distance_kpc) * 3600)


def _field_of_view(p: Properties, count: int, rng: np.random.Generator) -> Drawn:
    """The side of the cut-out follows the galaxy's size, but not all the way.

    A distant galaxy is therefore smaller in its image *and* less resolved.
    """
    scatter = np.exp(rng.normal(0.0, 0.14, count))
    return {"field_of_view_arcsec": _at_least(13.0 * half_light_radius_arcsec(p) ** 0.7 * scatter)}


def _at_least(field: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(field, 14.0))


def at_redshift(p: Properties, redshift: float | np.ndarray) -> Drawn:
    """Return the same galaxies carried to another redshift, without evolution; the field of view follows them."""
    moved = {**p, "redshift": np.broadcast_to(np.asarray(redshift, float), np.shape(p["redshift"]))}
    shrunk = half_light_radius_arcsec(moved) / half_light_radius_arcsec(p)
    moved["field_of_view_arcsec"] = _at_least(p["field_of_view_arcsec"] * shrunk**0.7)
    return moved


def axis_ratio(p: Properties) -> np.ndarray:
    """Return the projected axis ratio of the disk."""
    cosine = np.cos(np.radians(p["inclination_deg"]))
    # q² = cos² i + q₀² sin² i  (Hubble 1926)
    return np.asarray(np.sqrt(cosine**2 + p["thickness"] ** 2 * (1 - cosine**2)))


def _chosen(share: np.ndarray | float, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.random(count) < share


def _angle(count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.0, 360.0, count)


def _body(p: Properties, count: int, rng: np.random.Generator) -> Drawn:
    # Irregulars are faint, and known nearby only.
    redshift = 0.012 + np.where(p["kind"] == 3, 0.10, 0.24) * rng.beta(1.5, 3.6, count)
    radius, scatter = RADIUS_KPC[p["kind"]].T
    # A survey limited in flux sees only the large galaxies far away.
    radius = radius * np.exp(scatter * rng.normal(size=count)) * (redshift / 0.07) ** 0.3
    brightness, spread = BRIGHTNESS[p["kind"]].T
    return {
        "redshift": redshift,
        "half_light_radius_kpc": radius,
        "surface_brightness": brightness + spread * rng.normal(size=count),
        "inclination_deg": np.degrees(np.arccos(rng.random(count))),
        "position_angle_deg": _angle(count, rng) / 2,
        "thickness": rng.uniform(0.10, 0.20, count) + 0.22 * (p["kind"] == 3) + 0.06 * (p["kind"] == 1),
    }


def _bulge(p: Properties, count: int, rng: np.random.Generator) -> Drawn:
    kind = p["kind"]
    share = np.select(
        [kind == 0, kind == 1, kind == 2],
        [np.ones(count), rng.beta(4, 4, count), rng.beta(0.9, 4.2, count)],
        default=0.06 * rng.random(count),
    )
    flattening = np.where(kind == 0, 1.0 - 0.62 * rng.beta(1.7, 2.1, count), rng.uniform(0.55, 0.95, count))
    cosine = np.cos(np.radians(p["inclination_deg"]))
    projected = np.sqrt(cosine**2 + flattening**2 * (1 - cosine**2))
    boxy = _chosen(0.22, count, rng) & (p["inclination_deg"] > EDGE_ON_DEG) & (kind > 0) & (kind < 3)
    share = np.where(boxy, np.clip(share, 0.22, 0.45), share)
    radius = 0.12 + 0.45 * share * rng.uniform(0.7, 1.3, count) + 0.12 * boxy
    index = np.where(kind == 0, rng.uniform(2.2, 5.5, count), 1.2 + 2.6 * share + rng.random(count))
    return {
        "bulge_to_total": share,
        "bulge_radius": np.where(kind == 0, 1.0, radius),
        "bulge_axis_ratio": np.where(kind == 0, flattening, projected),
        "sersic_index": np.where(boxy, 1.0, index),
        "boxiness": np.where(boxy, rng.uniform(0.5, 1.0, count), 0.0),
    }


def _bar(p: Properties, count: int, rng: np.random.Generator) -> Drawn:
    barred = _chosen(np.array([0.0, 0.35, 0.55, 0.05])[p["kind"]], count, rng)
    strength = np.where(barred, 0.12 + 0.86 * rng.beta(1.3, 1.3, count), 0.0)
    return {
        "bar_strength": strength,
        "bar_length": (0.45 + 0.45 * strength) * rng.uniform(0.8, 1.25, count),
        "bar_axis_ratio": 0.37 - 0.19 * strength + 0.06 * rng.random(count),
        "bar_angle_deg": _angle(count, rng),
    }


def _arms(p: Properties, count: int, rng: np.random.Generator) -> Drawn:
    spiral = p["kind"] == 2
    number = rng.choice([1, 2, 3, 4, 5, 6], count, p=[0.06, 0.56, 0.17, 0.10, 0.06, 0.05])
    flocculent = _chosen(0.22, count, rng)
    # Tight arms live with large bulges, loose ones without (Hubble's sequence), with much scatter.
    pitch = 21 - 18 * (p["bulge_to_total"] - 0.18) + rng.normal(0, 6.5, count)
    knotty = np.select([spiral, p["kind"] == 3], [rng.uniform(0.1, 0.8, count), rng.uniform(0.5, 1.0, count)])
    start = np.where(p["bar_strength"] > 0, p["bar_length"], rng.uniform(0.15, 0.40, count))
    return {
        "arm_count": np.where(spiral, number, 0),
        "pitch_angle_deg": np.clip(pitch, 7.0, 40.0),
        "arm_contrast": np.where(spiral, rng.beta(3.0, 1.9, count), 0.0),
        "arm_sharpness": rng.uniform(1.2, 3.6, count),
        "arm_start": start,
        "arm_end": rng.uniform(1.9, 3.2, count),
        "arm_phase_deg": np.where(p["bar_strength"] > 0.3, p["bar_angle_deg"], _angle(count, rng)),
        "arm_sense": np.where(_chosen(0.5, count, rng), 1.0, -1.0),
        "arm_unevenness": 0.5 * rng.beta(1.2, 2.5, count),
        "arm_bend": np.clip(rng.normal(0.0, 0.12, count), -0.2, 0.2),
        "flocculence": np.where(flocculent, rng.uniform(0.6, 1.0, count), rng.uniform(0.0, 0.3, count)),
        "clumpiness": knotty,
    }


def _ring(p: Properties, count: int, rng: np.random.Generator) -> Drawn:
    ringed = _chosen(np.array([0.0, 0.20, 0.09, 0.0])[p["kind"]], count, rng)
    inner = np.maximum(rng.uniform(0.6, 1.0, count), p["bar_length"] * 1.05)
    return {
        "ring_strength": np.where(ringed, rng.uniform(0.3, 1.0, count), 0.0),
        "ring_radius": np.where(_chosen(0.65, count, rng), inner, rng.uniform(1.3, 2.0, count)),
        "ring_width": rng.uniform(0.09, 0.17, count),
    }


def _disturbance(p: Properties, count: int, rng: np.random.Generator) -> Drawn:
    merging, shaken = _chosen(0.06, count, rng), _chosen(0.10, count, rng)
    return {
        "interacting": merging.astype(float),
        "disturbance": np.select(
            [merging, shaken], [rng.uniform(0.3, 1.0, count), rng.uniform(0.2, 1.0, count)], default=0.0
        ),
        "tail_count": np.where(_chosen(0.45, count, rng), 2.0, 1.0),
        "tail_sharpness": np.where(p["kind"] == 0, rng.uniform(2.5, 7, count), rng.uniform(3, 12, count)),
    }


def _companion(p: Properties, count: int, rng: np.random.Generator) -> Drawn:
    overlapping = _chosen(0.035, count, rng)
    there = (p["interacting"] > 0) | overlapping
    angle, distance = _angle(count, rng), rng.uniform(0.7, 2.6, count)
    merging_tail = angle - p["arm_sense"] * np.degrees(np.log(distance / 1.1) / np.tan(np.radians(40)))
    flux = np.exp(rng.uniform(np.log(0.15), np.log(1.1), count))
    return {
        "companion_flux": np.where(there, flux, 0.0),
        "companion_distance": distance,
        "companion_angle_deg": angle,
        "companion_radius": 0.75 * np.sqrt(flux) * np.exp(rng.normal(0, 0.25, count)),
        "companion_axis_ratio": rng.uniform(0.3, 1.0, count),
        "companion_position_angle_deg": _angle(count, rng),
        "companion_index": rng.choice([1.0, 1.0, 2.5, 4.0], count),
        "tail_angle_deg": np.where(p["interacting"] > 0, merging_tail, _angle(count, rng)),
    }


def _rare(p: Properties, count: int, rng: np.random.Generator) -> Drawn:
    massive = (p["kind"] == 0) | (p["bulge_to_total"] > 0.5)
    lens = massive & _chosen(0.035, count, rng)
    edge_on = is_disk(p) & (p["inclination_deg"] > 77)
    dusty = _chosen(np.select([edge_on, massive], [0.6, 0.06], 0.0), count, rng)
    return {
        "arc_strength": np.where(lens, rng.uniform(0.4, 1.0, count), 0.0),
        "arc_radius": rng.uniform(1.3, 2.4, count),
        "arc_angle_deg": _angle(count, rng),
        "dust_strength": np.where(dusty, rng.uniform(0.7, 2.2, count), 0.0),
        "dust_width": np.where(edge_on, 0.35 * p["thickness"], 0.05) + rng.uniform(0.01, 0.03, count),
        "dust_angle_deg": np.where(edge_on, rng.normal(0, 1.5, count), rng.normal(0, 30, count)),
    }


def _artifact(p: Properties, count: int, rng: np.random.Generator) -> Drawn:
    return {
        "artifact": rng.choice(len(ARTIFACTS), count, p=ARTIFACT_SHARES),
        "artifact_severity": rng.beta(2.2, 1.2, count),
        "artifact_angle_deg": _angle(count, rng),
        "artifact_offset": rng.uniform(-1, 1, count),
    }


def _colours(p: Properties, count: int, rng: np.random.Generator) -> Drawn:
    g_r, r_z = OLD_COLOUR[p["kind"]].T
    redder = rng.normal(0, 1, count)
    return {
        "old_g_r": g_r + 0.09 * redder,
        "old_r_z": r_z + 0.06 * redder,
        "young_g_r": rng.normal(0.22, 0.09, count),
        "young_r_z": rng.normal(0.10, 0.08, count),
    }


def _sky(p: Properties, count: int, rng: np.random.Generator) -> Drawn:
    return {
        "seeing_arcsec": 1.25 * np.exp(rng.normal(0, 0.13, count)),
        "depth": 27.8 + rng.normal(0, 0.35, count),
    }
