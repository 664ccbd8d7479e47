"""From sharp light to a picture: point-spread function, sky, noise, the field around, artifacts, colour stretch."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from greenpea.simulate.light import Columns, Layer, Maps, columns
from greenpea.simulate.population import Properties

Scene = Float[np.ndarray, "band subject y x"]

SEEING_RATIO = (1.08, 1.0, 0.94)  # seeing in g, r, z over r, λ^(−1/5)
# Sky noise in g and z over r, and sky noise ** 2 per nanomaggie arcsec⁻² of light, of DECaLS exposures.
NOISE_RATIO = np.array([0.62, 1.0, 2.3], np.float32)
POISSON = 0.0006
NATIVE_PIXEL = 0.262  # arcsec: the pixel that the colour stretch of the Legacy Surveys is written for
STRETCH = np.array([6.0, 3.4, 2.2], np.float32)  # of g, r, z
SOFTENING, FLOOR = 20.0, 0.03


def pixel_arcsec(p: Properties, size: int) -> Float[np.ndarray, " subject"]:
    return np.asarray(p["field_of_view_arcsec"] / size)


def seeing_pixels(p: Properties, size: int) -> Float[np.ndarray, " subject"]:
    """Return the standard deviation of the point-spread function in pixels, the pixel's own width included."""
    return np.sqrt((p["seeing_arcsec"] / 2.3548 / pixel_arcsec(p, size)) ** 2 + 1 / 12)


def blur_matrix(p: Properties, size: int) -> Float[np.ndarray, "subject y from_y"]:
    """Return, per subject, the matrix that blurs a column of pixels by the Gaussian point-spread function."""
    sigma = seeing_pixels(p, size).reshape(-1, 1, 1).astype(np.float32)
    offset = np.arange(size, dtype=np.float32)
    kernel = np.exp(-0.5 * ((offset[:, None] - offset[None, :]) / sigma) ** 2)
    return np.asarray(kernel / kernel.sum(axis=2, keepdims=True))


def blur(layers: dict[str, Layer], matrix: Float[np.ndarray, "subject y from_y"]) -> dict[str, Layer]:
    """Return the layers as the telescope sees them; a Gaussian is blurred one axis after the other."""
    return {
        name: Layer(layer.rows, matrix[layer.rows] @ layer.light @ matrix[layer.rows].transpose(0, 2, 1), layer.colour)
        for name, layer in layers.items()
    }


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
    for band in range(3):
        # σ² = σ_sky² + g I / A, the second term from the photons of the source over a pixel of area A
        noise = np.sqrt((NOISE_RATIO[band] * sky) ** 2 + POISSON / area * scene[band])
        noise *= rng.standard_normal(noise.shape, dtype=np.float32)
        scene[band] += noise
        scene[band] += 0.15 * NOISE_RATIO[band] * sky * rng.standard_normal((len(sky), 1, 1), dtype=np.float32)
    return scene


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
    slot = np.arange(FIELD_SLOTS)
    # Draw for every slot, so that what a subject gets does not depend on how many others need.
    place, shape, colour = (rng.random((subjects, FIELD_SLOTS, n)) for n in (2, 4, 2))
    there = slot < rng.poisson(14 * area)[:, None]
    subject, _ = np.nonzero(there)
    place, shape, colour = place[there], shape[there], colour[there]
    star = shape[:, 0] < 0.25
    # Counts grow threefold a magnitude brighter than 23 (Euclidean 4 less crowding).
    flux = 10 ** (-0.4 * (23 + np.log10(np.maximum(shape[:, 1], 1e-3)) / 0.45 - 22.5))
    pixel = pixel_arcsec(p, size)[subject]
    seeing = seeing_pixels(p, size)[subject] * pixel
    major = np.where(star, seeing, np.hypot(seeing, 0.25 + 0.45 * shape[:, 2]))
    minor = np.where(star, seeing, np.hypot(seeing, (0.25 + 0.45 * shape[:, 2]) * (0.3 + 0.7 * shape[:, 3])))
    ratios = 10 ** (0.4 * np.stack([-0.3 - 1.0 * colour[:, 0], 0 * flux, 0.1 + 0.9 * colour[:, 1]]))
    _stamp(scene, subject, place, flux, major / pixel, minor / pixel, shape[:, 3] * 9, pixel, ratios)


def _stamp(
    scene: Scene,
    subject: np.ndarray,
    place: np.ndarray,
    flux: np.ndarray,
    major: np.ndarray,
    minor: np.ndarray,
    turn: np.ndarray,
    pixel: np.ndarray,
    ratios: np.ndarray,
) -> None:
    """Add one small Moffat-like blob per object at ``place`` (fractions of the side); sizes in pixels."""
    size = scene.shape[-1]
    half = max(4, size // 9)
    centre = place * size
    corner = np.floor(centre).astype(int)
    step = np.arange(-half, half + 1)
    column, row = corner[:, 0, None] + step, corner[:, 1, None] + step
    x, y = (column - centre[:, :1])[:, None, :], (row - centre[:, 1:])[:, :, None]
    cosine, sine = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    major, minor = major[:, None, None], minor[:, None, None]
    distance = ((x * cosine + y * sine) / major) ** 2 + ((y * cosine - x * sine) / minor) ** 2
    # Moffat with β = 3: between a Gaussian core and a galaxy's wings; F = 2 π σ_x σ_y · 3/2 for this scale
    light = (flux / pixel**2)[:, None, None] / (3 * np.pi * major * minor) * (1 + distance / 3) ** -3.0
    inside = ((column >= 0) & (column < size))[:, None, :] & ((row >= 0) & (row < size))[:, :, None]
    where = ((subject[:, None, None] * size + row[:, :, None]) * size + column[:, None, :])[inside]
    for band in range(3):
        np.add.at(scene[band].reshape(-1), where, (light * ratios[band][:, None, None])[inside].astype(np.float32))


# ---- artifacts ---------------------------------------------------------------------------------------


def add_artifacts(scene: Scene, p: Properties) -> None:
    """Lay bright stars, satellite trails and missing data over the noisy scene, in place."""
    size = scene.shape[-1]
    line = (np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)) / np.float32(size / 2)
    for code, overlay in ((1, _star), (2, _trail), (3, _gap)):
        rows = np.flatnonzero(p["artifact"] == code)
        c = columns({name: values[rows] for name, values in p.items()})
        scene[:, rows] = overlay(scene[:, rows], c, line[None, None, :], line[None, :, None])


def _star(scene: Scene, c: Columns, x: Maps, y: Maps) -> Scene:
    """A saturated star with its halo, four diffraction spikes and a bleed trail; severe ones sit on the galaxy."""
    reach = 1.15 - 1.1 * c["artifact_severity"]
    x = x - reach * np.cos(c["arc_angle"])
    y = y - reach * np.sin(c["arc_angle"])
    tilt = 0.25 * (c["artifact_angle"] - np.pi) / np.pi + np.pi / 4 * (c["artifact_offset"] > 0)
    a, b = np.abs(x * np.cos(tilt) + y * np.sin(tilt)), np.abs(y * np.cos(tilt) - x * np.sin(tilt))
    width = 0.022
    spikes = np.exp(-((a / width) ** 2)) / (0.05 + b**1.5) + np.exp(-((b / width) ** 2)) / (0.05 + a**1.5)
    halo = 1 / (0.004 + x * x + y * y) ** 1.4
    light = (4 + 16 * c["artifact_severity"] ** 2) * (0.35 * spikes + 0.30 * halo)
    light += 400 * np.exp(-((x / 0.03) ** 2)) * (np.abs(y) < 0.5 * c["artifact_severity"]) * (c["artifact_offset"] < -0.3)
    tint = 0.4 * c["artifact_offset"][None] * np.float32([-1, 0, 1]).reshape(3, 1, 1, 1)
    return scene + light * np.exp(tint)


def _trail(scene: Scene, c: Columns, x: Maps, y: Maps) -> Scene:
    """A satellite or aeroplane that crossed one exposure: a line in one band."""
    angle = c["artifact_angle"]
    across = y * np.cos(angle) - x * np.sin(angle) - 0.5 * c["artifact_offset"] * (1.2 - c["artifact_severity"])
    light = (1 + 12 * c["artifact_severity"]) * np.exp(-((across / 0.035) ** 2))
    band = (c["arc_angle"] * (3 / (2 * np.pi))).astype(int).ravel() % 3
    share = np.full((3, len(band), 1, 1), 0.05, np.float32)
    share[band, np.arange(len(band))] = 1.0
    return scene + light * share


def _gap(scene: Scene, c: Columns, x: Maps, y: Maps) -> Scene:
    """Pixels that no exposure covered: a half-plane or a strip without data, in one band or in all."""
    angle = np.round(c["artifact_angle"] / (np.pi / 2)) * np.pi / 2 + 0.05 * c["artifact_offset"]
    across = y * np.cos(angle) - x * np.sin(angle) - 0.6 * c["artifact_offset"]
    missing = (across > 0) & (across < 0.15 + 1.5 * c["artifact_severity"] ** 2)
    band = (c["arc_angle"] * (5 / (2 * np.pi))).astype(int).ravel() % 5
    hit = (np.arange(3)[:, None] == band) | (band > 2)
    blank = -0.9 * FLOOR / (NATIVE_PIXEL**2 * STRETCH[:, None, None, None])
    return np.where(missing & hit[:, :, None, None], blank, scene)
