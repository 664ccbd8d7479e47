"""From sharp light to a picture: seeing, sky, noise, the field around, artifacts, colour stretch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy import fft

from greenpea.simulate.light import Columns, Layer, Maps, columns
from greenpea.simulate.population import Properties

Scene = Float[np.ndarray, "band subject y x"]
Across = Float[np.ndarray, "#subject #y x"]
Down = Float[np.ndarray, "#subject y #x"]

NOISE_RATIO = np.array([0.62, 1.0, 1.7], np.float32)  # sky noise in g, r, z over that in r, near that of DECaLS
POISSON = 0.0002  # nanomaggies per photon
NATIVE_PIXEL = 0.262  # arcsec: the pixel that the colour stretch of the Legacy Surveys is written for
STRETCH = np.array([6.0, 3.4, 2.2], np.float32)  # of g, r, z
SOFTENING, FLOOR = 20.0, 0.016


def pixel_arcsec(p: Properties, size: int) -> Float[np.ndarray, " subject"]:
    return np.asarray(p["field_of_view_arcsec"] / size)


def seeing_pixels(p: Properties, size: int) -> Float[np.ndarray, " subject"]:
    """Return the standard deviation of the point-spread function in pixels, the pixel's own width included."""
    return np.asarray(np.sqrt((p["seeing_arcsec"] / 2.3548 / pixel_arcsec(p, size)) ** 2 + 1 / 12))


def blur(layers: Mapping[str, Layer], p: Properties, size: int) -> dict[str, Layer]:
    """Return the layers as the telescope sees them: blurred by the subject's Gaussian point-spread function."""
    sigma = seeing_pixels(p, size).astype(np.float32)[:, None]
    wave = np.pi * np.arange(size, dtype=np.float32) / size
    # A Gaussian blur is a product with e^{−σ² k² / 2} in cosine space, which mirrors the light at the edges.
    fade = np.exp(-0.5 * (sigma * wave) ** 2)
    blurred = {}
    for name, layer in layers.items():
        # (A product with one matrix per axis is faster when alone, but its threads fight with ours.)
        waves = fft.dctn(layer.light, axes=(1, 2))
        waves *= fade[layer.rows, :, None] * fade[layer.rows, None, :]
        blurred[name] = Layer(layer.rows, fft.idctn(waves, axes=(1, 2), overwrite_x=True), layer.colour)
    return blurred


def compose(layers: dict[str, Layer], subjects: int, size: int) -> Scene:
    """Return the sum of all layers in g, r and z, nanomaggies arcsec⁻²."""
    scene = np.zeros((3, subjects, size, size), np.float32)
    for layer in layers.values():
        for band in range(3):
            scene[band][layer.rows] += layer.light * layer.colour[:, band, None, None]
    return np.maximum(scene, 0, out=scene)


def sky_noise(p: Properties, size: int) -> Float[np.ndarray, " subject"]:
    """Return the standard deviation of the r-band sky in one pixel, nanomaggies arcsec⁻²."""
    return np.asarray(10 ** (-0.4 * (p["depth"] - 22.5)) / pixel_arcsec(p, size))


def observe(scene: Scene, p: Properties, rng: np.random.Generator) -> Scene:
    """Return the scene with the noise of sky and photons (in place)."""
    size = scene.shape[-1]
    sky = sky_noise(p, size).astype(np.float32)[:, None, None]
    area = (pixel_arcsec(p, size).astype(np.float32) ** 2)[:, None, None]
    common = _grain(len(sky), size, rng)
    for band in range(3):
        # σ² = σ_sky² + I / (N A): N photons per nanomaggie from the source, over a pixel of area A
        noise = np.sqrt((NOISE_RATIO[band] * sky) ** 2 + POISSON / area * scene[band])
        noise *= np.float32(np.sqrt(0.65)) * common + np.float32(np.sqrt(0.35)) * _coarse(len(sky), size, rng)
        scene[band] += noise
        scene[band] += 0.15 * NOISE_RATIO[band] * sky * rng.standard_normal((len(sky), 1, 1), dtype=np.float32)
    return scene


def _grain(subjects: int, size: int, rng: np.random.Generator) -> Maps:
    """Return normal noise whose neighbours correlate by 0.37, as resampling leaves it."""
    noise = rng.standard_normal((subjects, size + 1, size + 1), dtype=np.float32)
    step = np.float32(0.45)
    noise = noise[:, 1:] + step * noise[:, :-1]
    return (noise[:, :, 1:] + step * noise[:, :, :-1]) / (1 + step**2)


def _coarse(subjects: int, size: int, rng: np.random.Generator) -> Maps:
    """Return normal noise constant over 2 × 2 pixels: JPEG keeps colour at half the resolution of light."""
    half = -(-size // 2)
    noise = rng.standard_normal((subjects, half, half), dtype=np.float32)
    return noise.repeat(2, axis=1).repeat(2, axis=2)[:, :size, :size]


def stretch(scene: Scene) -> UInt8[np.ndarray, "subject y x channel"]:
    """Return colour pictures by the arcsinh stretch of Lupton+2004, with the Legacy Surveys' constants."""
    for band in range(3):
        scene[band] *= STRETCH[band] * np.float32(NATIVE_PIXEL**2)
        scene[band] += FLOOR
    np.maximum(scene, 0, out=scene)
    mean = scene.sum(axis=0) / 3 + 1e-6
    # f(I) = asinh(Q I) / √Q, and every band is scaled by f(I) / I: colour survives, brightness is compressed.
    gain = np.arcsinh(SOFTENING * mean) / (np.float32(np.sqrt(SOFTENING)) * mean)
    pictures = np.empty((*mean.shape, 3), np.uint8)
    for channel, band in enumerate((2, 1, 0)):
        pictures[..., channel] = np.minimum(scene[band] * gain, 1) * np.float32(255) + 0.5
    return pictures


# ---- the field around --------------------------------------------------------------------------------

FIELD_SLOTS = 24  # at most this many background objects in a picture


def add_field(scene: Scene, p: Properties, rng: np.random.Generator) -> None:
    """Add background galaxies and faint stars to the scene, in place: about 14 an arcmin², to r = 23."""
    subjects, size = len(p["redshift"]), scene.shape[-1]
    area = (p["field_of_view_arcsec"] / 60) ** 2
    # Draw for every slot, so that what a subject gets does not depend on how many the others need:
    # arrivals of a Poisson process, as many as come before the area is used up.
    place, shape, colour = (rng.random((subjects, FIELD_SLOTS, n)) for n in (2, 4, 2))
    there = np.cumsum(rng.exponential(size=(subjects, FIELD_SLOTS)), axis=1) < 14 * area[:, None]
    subject, _ = np.nonzero(there)
    place, shape, colour = place[there], shape[there], colour[there]
    star = shape[:, 0] < 0.25
    # Counts grow threefold a magnitude brighter than 23 (Euclidean 4 less crowding).
    flux = 10 ** (-0.4 * (23 + np.log10(np.maximum(shape[:, 1], 0.02)) / 0.45 - 22.5))
    pixel = pixel_arcsec(p, size)[subject]
    seeing = seeing_pixels(p, size)[subject] * pixel
    radius = np.where(star, 0.0, 0.25 + 0.45 * shape[:, 2])
    major, minor = np.hypot(seeing, radius), np.hypot(seeing, radius * (0.3 + 0.7 * shape[:, 3]))
    ratios = 10 ** (0.4 * np.stack([-0.3 - 1.0 * colour[:, 0], 0 * flux, 0.1 + 0.9 * colour[:, 1]]))
    _stamp(scene, subject, place, flux * ratios / pixel**2, major / pixel, minor / pixel, shape[:, 3] * 9)


def _stamp(
    scene: Scene,
    subject: Int[np.ndarray, " object"],
    place: Float[np.ndarray, "object 2"],
    flux: Float[np.ndarray, "band object"],
    major: Float[np.ndarray, " object"],
    minor: Float[np.ndarray, " object"],
    turn: Float[np.ndarray, " object"],
) -> None:
    """Add one small blob per object at ``place`` (fractions of the side); sizes in pixels, flux per pixel."""
    size = scene.shape[-1]
    half = max(4, size // 8)
    centre = place * size
    corner = np.floor(centre).astype(int)
    step = np.arange(-half, half + 1)
    column, row = corner[:, 0, None] + step, corner[:, 1, None] + step
    x, y = (column - centre[:, :1])[:, None, :], (row - centre[:, 1:])[:, :, None]
    cosine, sine = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    major, minor = major[:, None, None], minor[:, None, None]
    distance = ((x * cosine + y * sine) / major) ** 2 + ((y * cosine - x * sine) / minor) ** 2
    # Moffat (1969) with β = 3: I = F / (3/2 π σ_x σ_y) (1 + d² / 3)⁻³, between a star and a galaxy's wings
    light = (1 + distance / 3) ** -3.0 / (1.5 * np.pi * major * minor)
    # Faded out before the stamp ends.
    light *= np.maximum(1 - (x * x + y * y) / (half + 0.5) ** 2, 0) ** 2
    inside = ((column >= 0) & (column < size))[:, None, :] & ((row >= 0) & (row < size))[:, :, None]
    where = ((subject[:, None, None] * size + row[:, :, None]) * size + column[:, None, :])[inside]
    for band in range(3):
        np.add.at(scene[band].reshape(-1), where, (light * flux[band][:, None, None])[inside].astype(np.float32))


# ---- artifacts ---------------------------------------------------------------------------------------


def add_artifacts(scene: Scene, p: Properties) -> None:
    """Lay bright stars, satellite trails and missing data over the noisy scene, in place."""
    size = scene.shape[-1]
    line = (np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)) / np.float32(size / 2)
    for code, overlay in ((1, _star), (2, _trail), (3, _gap)):
        rows = np.flatnonzero(p["artifact"] == code)
        c = columns({name: values[rows] for name, values in p.items()})
        scene[:, rows] = overlay(scene[:, rows], c, line[None, None, :], line[None, :, None])


def _star(scene: Scene, c: Columns, x: Across, y: Down) -> Scene:
    """A saturated star with its halo, four diffraction spikes and a bleed trail; severe ones sit on the galaxy."""
    reach = 1.15 - 1.1 * c["artifact_severity"]
    x = x - reach * np.cos(c["arc_angle"])
    y = y - reach * np.sin(c["arc_angle"])
    tilt = 0.25 * (c["artifact_angle"] - np.pi) / np.pi + np.pi / 4 * (c["artifact_offset"] > 0)
    a, b = np.abs(x * np.cos(tilt) + y * np.sin(tilt)), np.abs(y * np.cos(tilt) - x * np.sin(tilt))
    width = 0.022
    spikes = np.exp(-((a / width) ** 2)) / (0.05 + b**1.5) + np.exp(-((b / width) ** 2)) / (0.05 + a**1.5)
    halo = 1 / (0.0006 + x * x + y * y) ** 1.4
    light = 0.02 * np.exp(3.0 * c["artifact_severity"]) * (2.5 * spikes + halo)
    bleeds = c["artifact_offset"] < -0.3
    light += 60 * bleeds * np.exp(-((x / 0.022) ** 2) - (y / (0.35 * c["artifact_severity"])) ** 4)
    tint = np.array([-0.5, 0, 0.4], np.float32).reshape(3, 1, 1, 1) * (1 + 0.8 * c["artifact_offset"][None])
    return np.asarray(scene + light * np.exp(tint))


def _trail(scene: Scene, c: Columns, x: Across, y: Down) -> Scene:
    """A satellite or aeroplane that crossed one exposure: a line in one band."""
    angle = c["artifact_angle"]
    across = y * np.cos(angle) - x * np.sin(angle) - 0.5 * c["artifact_offset"] * (1.2 - c["artifact_severity"])
    light = (0.4 + 3 * c["artifact_severity"]) * np.exp(-((across / 0.02) ** 2))
    band = (c["arc_angle"] * (3 / (2 * np.pi))).astype(int).ravel() % 3
    share = np.full((3, len(band), 1, 1), 0.05, np.float32)
    share[band, np.arange(len(band))] = 1.0
    return np.asarray(scene + light * share)


def _gap(scene: Scene, c: Columns, x: Across, y: Down) -> Scene:
    """Pixels that no exposure covered: a half-plane or a strip without data, in one band or in all."""
    angle = np.round(c["artifact_angle"] / (np.pi / 2)) * np.pi / 2 + 0.05 * c["artifact_offset"]
    across = y * np.cos(angle) - x * np.sin(angle) - 0.6 * c["artifact_offset"]
    missing = (across > 0) & (across < 0.15 + 1.5 * c["artifact_severity"] ** 2)
    band = (c["arc_angle"] * (5 / (2 * np.pi))).astype(int).ravel() % 5
    hit = (np.arange(3)[:, None] == band) | (band > 2)
    blank = -0.9 * FLOOR / (NATIVE_PIXEL**2 * STRETCH[:, None, None, None])
    return np.where(missing & hit[:, :, None, None], blank, scene)
