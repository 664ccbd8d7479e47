"""The light of galaxies before it reaches the telescope: one map per component, vectorised over subjects.

Lengths are in half-light radii of the galaxy, surface brightness in nanomaggies arcsec⁻² in r
(22.5 mag is 1 nanomaggie), maps are float32 arrays [row, y, x] of those subjects that have the component.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from greenpea.simulate.population import EDGE_ON_DEG, Properties, axis_ratio, half_light_radius_arcsec, is_disk

Maps = Float[np.ndarray, "row y x"]
Rows = Int[np.ndarray, " row"]

DISK_SCALE = 1.678  # half-light radius of an exponential disk over its scale length


@dataclass(frozen=True)
class Layer:
    """The light of one component of some subjects: r band, and its flux in g, r, z over that in r."""

    rows: Rows
    light: Maps
    colour: Float[np.ndarray, "row band"]


@dataclass(frozen=True)
class Plane:
    """Where every pixel lies: (u, w) along the major and minor axis on the sky, (radius, angle) in the disk."""

    u: Maps
    w: Maps
    radius: Maps
    pixel: Float[np.ndarray, "row 1 1"]

    def take(self, rows: Rows) -> Plane:
        return Plane(self.u[rows], self.w[rows], self.radius[rows], self.pixel[rows])


Columns = Mapping[str, np.ndarray]


def columns(p: Properties) -> Columns:
    """Return every property as float32 of shape [row, 1, 1], ready to meet a map; angles in radians."""
    return {
        name.removesuffix("_deg"): np.asarray(
            np.radians(values) if name.endswith("_deg") else values, np.float32
        ).reshape(-1, 1, 1)
        for name, values in p.items()
    }


def rows_of(c: Columns, rows: Rows) -> Columns:
    return {name: values[rows] for name, values in c.items()}


def derived(p: Properties) -> dict[str, np.ndarray]:
    """Return what rendering needs beside the drawn properties: apparent size, axis ratio and flux scale."""
    dimming = 10 * np.log10(1 + p["redshift"])  # Tolman's (1 + z)⁴, in mag
    brightness = 10 ** (-0.4 * (p["surface_brightness"] + dimming - 22.5))
    return {
        "half_light_radius_arcsec": half_light_radius_arcsec(p),
        "axis_ratio": axis_ratio(p),
        # Half the light within one half-light radius: F = 2 π R² ⟨I⟩, with R = 1.
        "flux": 2 * np.pi * brightness,
    }


def plane(c: Columns, size: int) -> Plane:
    """Return the coordinates of the pixels of ``size`` × ``size`` images, warped where the galaxy is disturbed."""
    pixel = c["field_of_view_arcsec"] / (size * c["half_light_radius_arcsec"])
    line = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
    x, y = line[None, None, :] * pixel, line[None, :, None] * pixel
    cosine, sine = np.cos(c["position_angle"]), np.sin(c["position_angle"])
    u, w = x * cosine + y * sine, y * cosine - x * sine
    _warp(u, w, c)
    v = w / c["axis_ratio"]
    return Plane(u, w, np.sqrt(u * u + v * v + (0.3 * pixel) ** 2), pixel)


def _warp(u: Maps, w: Maps, c: Columns) -> None:
    rows = np.flatnonzero(c["disturbance"])
    d = rows_of(c, rows)
    strength, phase = d["disturbance"], d["tail_angle"]
    near = u[rows].copy()
    u[rows] += 0.28 * strength * np.sin(1.7 * w[rows] + phase)
    # Thin disks bend less on the sky than face-on ones are displaced.
    w[rows] += (0.10 + 0.26 * d["axis_ratio"]) * strength * (np.sin(1.5 * near + 2 * phase) - np.sin(2 * phase))


def band_ratios(g_r: np.ndarray, r_z: np.ndarray, redshift: np.ndarray) -> Float[np.ndarray, "row band"]:
    """Return flux in g, r, z over that in r for rest-frame colours; redshift reddens old light most."""
    # Linear stand-ins for K-corrections (Chilingarian+2010 at z < 0.3): old stars redden by about 1.9 z in g − r.
    g_r = g_r + (0.5 + 1.9 * np.clip(g_r, 0, 0.75)) * redshift
    r_z = r_z + 0.6 * redshift
    return np.stack([10 ** (-0.4 * g_r), np.ones_like(g_r), 10 ** (0.4 * r_z)], axis=1).astype(np.float32)


# ---- components --------------------------------------------------------------------------------------


def _sersic_b(index: np.ndarray) -> np.ndarray:
    # b ≈ 2n − 1/3 + 4/(405 n) + 46/(25515 n²)  (Ciotti & Bertin 1999)
    return np.asarray(2 * index - 1 / 3 + 4 / (405 * index) + 46 / (25515 * index**2))


def sersic(radius: Float[np.ndarray, ...], index: np.ndarray) -> Float[np.ndarray, ...]:
    """Return a Sérsic profile, 1 at the effective radius (radius 1)."""
    # I(r) = exp(−b (r^{1/n} − 1))  (Sérsic 1963)
    b = _sersic_b(index)
    return np.asarray(np.exp(-b * (np.exp(np.log(radius) / index) - 1)))


def sersic_flux(index: np.ndarray) -> np.ndarray:
    """Return the light of a round Sérsic profile that is 1 at its effective radius 1."""
    # F = 2 π n e^b b^{−2n} Γ(2n)
    b = _sersic_b(index)
    log_flux = np.log(2 * np.pi * index) + b - 2 * index * np.log(b) + special.gammaln(2 * index)
    return np.asarray(np.exp(log_flux), np.float32)


def bulge(at: Plane, c: Columns) -> Maps:
    """Return the Sérsic bulge; ellipticals are all bulge."""
    q, size = c["bulge_axis_ratio"], c["bulge_radius"]
    soft = (0.35 * at.pixel) ** 2
    radius = np.sqrt(at.u**2 + (at.w / q) ** 2 + soft)
    boxy = np.flatnonzero(c["boxiness"])
    if len(boxy):
        # r_c = (|u|^c + |w/q|^c)^{1/c}: c = 2 an ellipse, above it a box (Athanassoula+1990)
        power = 2 + 3 * c["boxiness"][boxy]
        box = np.abs(at.u[boxy]) ** power + np.abs(at.w[boxy] / q[boxy]) ** power
        radius[boxy] = (box + soft[boxy]) ** (1 / power)
    peak = c["flux"] * c["bulge_to_total"] / (sersic_flux(c["sersic_index"]) * size**2 * q)
    return np.asarray(peak * sersic(radius / size, c["sersic_index"]))


def disk(at: Plane, c: Columns) -> Maps:
    """Return the exponential disk: flat and half transparent, or with its sech² thickness where edge-on."""
    q = c["axis_ratio"]
    centre = c["flux"] * (1 - c["bulge_to_total"]) * DISK_SCALE**2 / (2 * np.pi)
    # Dust hides part of what inclination piles up: I₀ ∝ q^{−0.4}, where a transparent disk has q⁻¹.
    light: Maps = centre * q**-0.4 * np.exp(-DISK_SCALE * at.radius)
    edge = np.flatnonzero(c["inclination"] > np.radians(EDGE_ON_DEG))
    if len(edge):
        e, u, w = rows_of(c, edge), at.u[edge], at.w[edge]
        height = np.sqrt((0.5 * e["thickness"]) ** 2 + (0.45 * np.cos(e["inclination"])) ** 2)
        ridge = centre[edge] * np.pi * q[edge] ** 0.6 / (2 * DISK_SCALE * height)
        # I(u, w) = I₀ e^{−|u|/h} sech²(w/z₀)  (van der Kruit & Searle 1981)
        light[edge] = ridge * np.exp(-DISK_SCALE * np.sqrt(u * u + 0.06)) * (1 - np.tanh(w / height) ** 2)
    return light


def bar(at: Plane, c: Columns) -> Maps:
    """Return the bar: a flat generalised ellipse with a sharp end, in a disk that it has swept."""
    angle = np.arctan2(at.w / c["axis_ratio"], at.u) - c["bar_angle"]
    along = np.abs(at.radius * np.cos(angle)) / c["bar_length"]
    across = np.abs(at.radius * np.sin(angle)) / (c["bar_length"] * c["bar_axis_ratio"])
    rho = (along**2.6 + across**2.6) ** np.float32(1 / 2.6)
    area = np.pi * c["bar_length"] ** 2 * c["bar_axis_ratio"] * c["axis_ratio"]
    peak = (0.04 + 0.40 * c["bar_strength"]) * c["flux"] / area
    light = peak * np.exp(-0.7 * rho) * (0.5 - 0.5 * np.tanh(3.5 * (rho - 1)))
    # A bar has swept the disk around it: light is missing inside its radius.
    swept = 0.75 * c["bar_strength"] * smooth_step(2.2 * (1 - at.radius / c["bar_length"]))
    return np.asarray(light - swept * disk(at, c))


def spiral_pattern(at: Plane, c: Columns) -> Maps:
    """Return the excess of the disk's light in spiral arms over their mean, in units of the disk (mean 0)."""
    start = np.maximum(c["arm_start"], 0.1)
    log_radius = np.log(at.radius / start)
    # Logarithmic spiral: θ = θ₀ + ln(r/r₀) / tan(pitch), its pitch bent with radius.
    winding = log_radius * (1 - c["arm_bend"] * log_radius) / np.tan(c["pitch_angle"])
    theta = np.arctan2(at.w / c["axis_ratio"], at.u)
    phase = theta - c["arm_phase"] - c["arm_sense"] * winding
    kappa = c["arm_sharpness"]
    # von Mises profile across an arm, divided by its mean e^{−κ} I₀(κ).
    arms = np.exp(kappa * (np.cos(c["arm_count"] * phase) - 1)) / special.i0e(kappa)
    arms *= 1 + c["arm_unevenness"] * np.cos(phase - c["tail_angle"])
    torn = texture(0.16 * log_radius, phase / (2 * np.pi), c, 0, 0.9)
    arms += c["flocculence"] * (torn - arms)
    arms *= 1 + c["clumpiness"] * (knots(at, c) - 1)
    inside = smooth_step((at.radius - 0.75 * start) / (0.45 * start))
    outside = smooth_step((c["arm_end"] - at.radius) / 0.9)
    return np.asarray(c["arm_contrast"] * inside * outside * np.clip(arms - 1, -0.7, 6))


def knots(at: Plane, c: Columns) -> Maps:
    """Return a clumpy pattern of mean 1 fixed in the plane of the disk: knots of star formation."""
    return texture(0.15 * at.u, 0.15 * at.w / c["axis_ratio"], c, 1, 0.9)


def arms(at: Plane, c: Columns) -> Maps:
    """Return the excess light of spiral arms and knots: positive on the arms, negative between them."""
    return np.asarray(disk(at, c) * spiral_pattern(at, c))


def clumps(at: Plane, c: Columns) -> Maps:
    """Return the excess light of an irregular galaxy's star-forming clumps."""
    lopsided = 0.8 * at.u * np.cos(c["tail_angle"]) + 0.8 * at.w * np.sin(c["tail_angle"])
    pattern = texture(0.12 * at.u, 0.12 * at.w / c["axis_ratio"], c, 1, 1.1) * np.exp(lopsided - 0.3)
    return np.asarray(c["clumpiness"] * disk(at, c) * np.clip(pattern - 1, -0.75, 8))


def ring(at: Plane, c: Columns) -> Maps:
    """Return a ring's excess over the disk, with the darker gap that lies inside it."""
    offset = (at.radius - c["ring_radius"]) / c["ring_width"]
    gap = np.exp(-0.5 * (offset / 1.3 + 2.0) ** 2)
    # An exponential disk is faint far out: an outer ring must outshine it by more to be seen.
    height = 0.9 + 1.1 * np.maximum(c["ring_radius"], 0.5)
    return np.asarray(c["ring_strength"] * disk(at, c) * (height * np.exp(-0.5 * offset**2) - 0.7 * gap))


def tails(at: Plane, c: Columns) -> Maps:
    """Return tidal tails: open arms far outside the disk, narrow from disks, broad fans from ellipticals."""
    radius = np.sqrt(at.u**2 + at.w**2 + 1e-4)
    winding = c["arm_sense"] * np.log(radius / 1.1) / np.tan(np.radians(40))
    phase = np.arctan2(at.w, at.u) - (c["tail_angle"] - c["position_angle"]) - winding
    shape = np.exp(c["tail_sharpness"] * (np.cos(c["tail_count"] * phase) - 1))
    reach = smooth_step((radius - 0.7) / 0.6) * smooth_step((2.2 + 1.8 * c["disturbance"] - radius) / 1.2)
    return np.asarray(0.06 * c["flux"] * c["disturbance"] * shape * reach * np.exp(-0.75 * radius))


def companion(at: Plane, c: Columns) -> Maps:
    """Return a second galaxy, merging with the first or lying across it by chance."""
    bearing = c["companion_angle"] - c["position_angle"]
    u = at.u - c["companion_distance"] * np.cos(bearing)
    w = at.w - c["companion_distance"] * np.sin(bearing)
    turn = c["companion_position_angle"]
    major, minor = u * np.cos(turn) + w * np.sin(turn), w * np.cos(turn) - u * np.sin(turn)
    q, size, index = c["companion_axis_ratio"], c["companion_radius"], c["companion_index"]
    radius = np.sqrt(major**2 + (minor / q) ** 2 + (0.35 * at.pixel) ** 2)
    peak = c["companion_flux"] * c["flux"] / (sersic_flux(index) * size**2 * q)
    return np.asarray(peak * sersic(radius / size, index))


def arc(at: Plane, c: Columns) -> Maps:
    """Return the arcs of a background galaxy lensed by this one: a long one and its counter-image."""
    offset = (np.sqrt(at.u**2 + at.w**2) - c["arc_radius"]) / 0.10
    cosine = np.cos(np.arctan2(at.w, at.u) - c["arc_angle"])
    along = np.exp(3.5 * (cosine - 1)) + 0.5 * np.exp(14 * (-cosine - 1))
    return np.asarray(0.035 * c["flux"] * c["arc_strength"] * along * np.exp(-0.5 * offset**2))


def dust(at: Plane, c: Columns) -> Maps:
    """Return the share of light that a dust lane takes away in r."""
    cosine, sine = np.cos(c["dust_angle"]), np.sin(c["dust_angle"])
    across, along = at.w * cosine - at.u * sine, at.u * cosine + at.w * sine
    offset = across / c["dust_width"] - 0.4
    lane = np.exp(-0.5 * offset**2 - 0.5 * (along / 1.2) ** 4)
    # The optical depth in r is about 0.7 of that in g (Cardelli+1989).
    return np.asarray(1 - np.exp(-0.7 * c["dust_strength"] * lane))


def smooth_step(x: Maps) -> Maps:
    """Return 0 below 0, 1 above 1, and 3x² − 2x³ between."""
    x = np.clip(x, 0, 1)
    return np.asarray(x * x * (3 - 2 * x))


# ---- textures ----------------------------------------------------------------------------------------

TEXTURE = 256  # cells a side


@cache
def _textures() -> Float[np.ndarray, "kind cell"]:
    """Return two periodic Gaussian random fields (mean 0, variance 1): streaks along the second axis, blobs."""
    rng = np.random.default_rng(20)
    waves = np.fft.fftfreq(TEXTURE, 1 / TEXTURE)
    made = []
    for long, short in ((3.0, 9.0), (9.0, 9.0)):
        power = np.exp(-0.5 * ((waves[:, None] / short) ** 2 + (waves[None, :] / long) ** 2))
        field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(TEXTURE, TEXTURE))) * power).real
        made.append(field / field.std())
    return np.stack(made).reshape(2, -1).astype(np.float32)


def texture(a: Maps, b: Maps, c: Columns, kind: int, spread: float) -> Maps:
    """Return a log-normal pattern of mean 1 at coordinates in periods; each subject has its own patch."""
    # The angles of a subject serve as its patch's origin: random, and the same whatever is asked of it.
    row = (a + c["companion_angle"]) * TEXTURE
    column = (b + c["arc_angle"]) * TEXTURE
    index = (row.astype(np.int32) & (TEXTURE - 1)) * TEXTURE + (column.astype(np.int32) & (TEXTURE - 1))
    # ⟨e^{s g}⟩ = e^{s²/2} for a standard normal g
    field = _textures()[kind].take(index)
    return np.asarray(np.exp(np.float32(spread) * field - np.float32(spread**2 / 2)))


# ---- all of a galaxy ---------------------------------------------------------------------------------

Component = Callable[[Plane, Columns], Maps]


def layers(p: Properties, size: int) -> dict[str, Layer]:
    """Return the layers of light of every subject, by name, still sharp (before the telescope)."""
    c = columns({**p, **derived(p)})
    at = plane(c, size)
    old = band_ratios(p["old_g_r"], p["old_r_z"], p["redshift"])
    young = band_ratios(p["young_g_r"], p["young_r_z"], p["redshift"])
    mixed = band_ratios(p["old_g_r"] - 0.06, p["old_r_z"] - 0.05, p["redshift"])
    arm_colour = young**0.35 * mixed**0.65
    bluer = band_ratios(p["young_g_r"] - 0.1, p["young_r_z"], p["redshift"])
    late = p["companion_index"][:, None] < 2
    disky, open_disk = is_disk(p), is_disk(p) & (p["inclination_deg"] < EDGE_ON_DEG)
    plan: dict[str, tuple[Component, np.ndarray, np.ndarray]] = {
        "bulge": (bulge, p["bulge_to_total"] > 0, old * _redder_centre(p)),
        "disk": (disk, disky, mixed),
        "arms": (arms, open_disk & (p["arm_count"] > 0), arm_colour),
        "clumps": (clumps, disky & (p["kind"] == 3), np.sqrt(young * mixed)),
        "bar": (bar, open_disk & (p["bar_strength"] > 0), old),
        "ring": (ring, open_disk & (p["ring_strength"] > 0), (young + mixed) / 2),
        "tails": (tails, p["disturbance"] > 0, mixed),
        "companion": (companion, p["companion_flux"] > 0, np.where(late, arm_colour, old)),
        "arc": (arc, p["arc_strength"] > 0, bluer),
    }
    made = {}
    for name, (component, there, colour) in plan.items():
        rows = np.flatnonzero(there)
        made[name] = Layer(rows, component(at.take(rows), rows_of(c, rows)).astype(np.float32), colour[rows])
    rows = np.flatnonzero(p["dust_strength"])
    taken = dust(at.take(rows), rows_of(c, rows))
    body = _sum_of([made[name] for name in ("bulge", "disk", "arms", "clumps")], rows, size)
    made["dust"] = Layer(rows, -body * taken, mixed[rows] * np.array([1.2, 1.0, 0.75], np.float32))
    return made


def _sum_of(layers: list[Layer], rows: Rows, size: int) -> Maps:
    """Return the summed light of some layers for the subjects ``rows``, whether they have the layer or not."""
    total = np.zeros((len(rows), size, size), np.float32)
    for layer in layers:
        _, here, there = np.intersect1d(rows, layer.rows, return_indices=True)
        total[here] += layer.light[there]
    return total


def _redder_centre(p: Properties) -> Float[np.ndarray, "row band"]:
    """Bulges in disks are redder than the disk around them by about 0.12 mag in g − r."""
    redder = np.where(is_disk(p), 0.12, 0.0)
    return np.stack([10 ** (-0.4 * redder), np.ones_like(redder), 10 ** (0.3 * redder)], axis=1).astype(np.float32)
