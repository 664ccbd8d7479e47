"""Images: every format written and read back to its values, stretches against astropy, nothing ever lost."""

from __future__ import annotations

import contextlib
import gzip
import io
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from astropy.io import fits
from astropy.visualization import AsinhStretch, AsymmetricPercentileInterval, LinearStretch, make_lupton_rgb
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from pydantic import ValidationError

from greenpea import formats, images
from greenpea.errors import GreenpeaError
from greenpea.images import Preparation, Unreadable, UnreadableSubject, batches, load, native_size, read
from greenpea.subjects import SubjectSet

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (9, 12), dtype=np.uint8)
RGB = RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (9, 12), dtype=np.uint16)


def as_png(image: Image.Image | np.ndarray, **options: Any) -> bytes:
    return encoded(image, "PNG", **options)


def as_jpeg(image: Image.Image | np.ndarray, **options: Any) -> bytes:
    return encoded(image, "JPEG", **{"quality": 95, "subsampling": 0} | options)


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def as_fits(*units: Any) -> bytes:
    file = io.BytesIO()
    fits.HDUList(list(units)).writeto(file)
    return file.getvalue()


def as_npy(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def as_npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def as_tiff(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **{"photometric": "minisblack"} | options)
    return file.getvalue()


def smooth(size: int, channels: int = 3) -> np.ndarray:
    """A galaxy off centre, brighter in each channel than in the one before."""
    y, x = np.mgrid[:size, :size] / size
    light = np.exp(-(((x - 0.55) / 0.2) ** 2 + ((y - 0.45) / 0.12) ** 2))
    return np.stack([light * (channel + 1) / channels for channel in range(channels)], axis=2)


def bytes_of(value: float, channels: int = 3) -> bytes:
    return as_png(np.full((8, 8, 3) if channels == 3 else (8, 8), value, np.uint8))


# ---- PNG and JPEG ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("array", "kind"), [(GREY, np.uint8), (RGB, np.uint8), (DEEP, np.uint16)])
def test_png_gives_its_values_back(tmp_path: Path, array: np.ndarray, kind: type) -> None:
    path = tmp_path / "Größe 1.png"
    path.write_bytes(as_png(array))
    pixels = read(path)
    assert pixels.dtype == kind
    np.testing.assert_array_equal(pixels, array.reshape(9, 12, -1))
    np.testing.assert_array_equal(read(path.read_bytes()), pixels)


def test_png_palette_is_looked_up() -> None:
    image = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(read(as_png(image)), np.asarray(image.convert("RGB")))


def test_png_of_one_bit() -> None:
    bits = GREY > 128
    np.testing.assert_array_equal(read(as_png(Image.fromarray(bits)))[..., 0], bits * 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_black(mode: str) -> None:
    colours = RGB if mode == "RGBA" else GREY[..., None]
    alpha = np.tile(np.array([0, 128, 255, 64], np.uint8), (9, 3))[..., None]
    pixels = read(as_png(Image.fromarray(np.concatenate([colours, alpha], axis=2))))
    assert pixels.shape == colours.shape
    np.testing.assert_allclose(pixels, colours * (alpha / 255.0), atol=0.5 + 1e-9)
    np.testing.assert_array_equal(pixels[:, 2::4], colours[:, 2::4])


def test_transparent_palette_colour_and_grey_become_black() -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    pixels = read(as_png(image, transparency=b"\xff\x00\xff"))
    np.testing.assert_array_equal(pixels, [[[10, 20, 30], [0, 0, 0]], [[0, 0, 0], [70, 80, 90]]])
    grey = read(as_png(Image.fromarray(np.array([[7, 9]], np.uint8)), transparency=9))
    np.testing.assert_array_equal(grey[..., 0], [[7, 0]])


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_close_to_what_was_written(channels: int) -> None:
    array = np.rint(255 * smooth(40, channels)).astype(np.uint8)
    pixels = read(as_jpeg(array if channels == 3 else array[..., 0]))
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels, array.astype(float), atol=8)


def test_cmyk_jpeg_becomes_rgb() -> None:
    array = np.rint(255 * smooth(40)).astype(np.uint8)
    np.testing.assert_allclose(read(as_jpeg(Image.fromarray(array).convert("CMYK"))), array.astype(float), atol=5)


def test_corrupt_exif_neither_warns_nor_hides_the_image() -> None:
    broken = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x05\x00\x12\x01\x03\x00\xff\xff\xff\x7f\x01\x00\x00\x00"
    data = as_jpeg(RGB, exif=broken).replace(b"JFIF", b"JFIX")
    with pytest.warns(UserWarning, match="EXIF|larger than file"):  # what Pillow does by itself
        Image.open(io.BytesIO(data))
    assert read(data).shape == RGB.shape


# ---- FITS --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "i8", "f4", "f8", "u2", "u4", "i1"])
def test_fits_types_agree_with_astropy(kind: str) -> None:
    info = np.iinfo(kind) if kind[0] in "iu" else None
    low, high = (info.min, min(info.max, 2**40)) if info else (-1e6, 1e6)
    values = RNG.uniform(max(low, -(2**40)), high, (5, 7)).astype(kind)
    data = as_fits(fits.PrimaryHDU(values))
    pixels = read(data)
    assert pixels.dtype == {"u1": np.uint8, "u2": np.uint16}.get(kind, np.float32)
    assert pixels.dtype.isnative
    np.testing.assert_array_equal(pixels[..., 0], values.astype(pixels.dtype))
    with fits.open(io.BytesIO(data)) as units:
        np.testing.assert_array_equal(pixels[..., 0], units[0].data.astype(pixels.dtype))


def test_fits_scale_zero_and_blank() -> None:
    unit = fits.PrimaryHDU(np.array([[1, 2], [-99, 4]], np.int16))
    unit.header["BSCALE"], unit.header["BZERO"], unit.header["BLANK"] = 0.5, 10.0, -99
    unit.header["OBJECT"] = "a / b = 'c'"
    data = as_fits(unit)
    # astropy writes scaled data back unscaled when they were touched: make sure that the file is scaled.
    assert b"BSCALE  =" in data
    np.testing.assert_array_equal(read(data)[..., 0], np.array([[10.5, 11], [np.nan, 12]], np.float32))


def test_fits_fortran_exponent() -> None:
    unit = fits.PrimaryHDU(np.array([[1, 2]], np.int16))
    unit.header["BSCALE"] = 0.25
    data = as_fits(unit).replace(b"                0.25", b"              2.5D-1")
    np.testing.assert_array_equal(read(data)[..., 0], [[0.25, 0.5]])


def test_fits_bands_become_channels() -> None:
    cube = RNG.normal(size=(5, 6, 7)).astype(np.float32)
    np.testing.assert_array_equal(read(as_fits(fits.PrimaryHDU(cube))), cube.transpose(1, 2, 0))
    radio = cube[None, :1]
    np.testing.assert_array_equal(read(as_fits(fits.PrimaryHDU(radio)))[..., 0], cube[0])


def test_fits_first_image_is_found_behind_tables() -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("x", "E", array=np.arange(1000.0))])
    spectrum = fits.ImageHDU(np.arange(5000, dtype=np.float64))
    pixels = read(as_fits(fits.PrimaryHDU(), table, spectrum, fits.ImageHDU(DEEP), fits.ImageHDU(GREY)))
    np.testing.assert_array_equal(pixels[..., 0], DEEP)


def test_fits_compressed_by_gzip() -> None:
    plain = as_fits(fits.PrimaryHDU(DEEP))
    np.testing.assert_array_equal(read(gzip.compress(plain))[..., 0], DEEP)


@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "f4"])
def test_fits_compressed_by_tiles_agrees_with_astropy(kind: str) -> None:
    values = RNG.uniform(0, 200, (3, 40, 50)).astype(kind)
    header = fits.Header({"OBJECT": "M 51", "BUNIT": "degree"})
    data = as_fits(fits.PrimaryHDU(GREY[0]), fits.ImageHDU(), fits.CompImageHDU(values, header, quantize_level=1e3))
    with fits.open(io.BytesIO(data)) as units:
        expected = units[2].data.transpose(1, 2, 0)
    pixels = read(data.replace(b"'degree  '", b"'\xb0       '"))  # not ASCII: astropy warns of it
    assert pixels.dtype == {"u1": np.uint8, "u2": np.uint16}.get(kind, np.float32)
    np.testing.assert_array_equal(pixels, expected.astype(pixels.dtype))
    np.testing.assert_allclose(pixels, values.transpose(1, 2, 0), atol=0 if kind != "f4" else 0.2)


def test_fits_header_oddities_do_not_warn() -> None:
    unit = fits.PrimaryHDU(np.ones((4, 4), np.float32))
    unit.header["EXPTIME"] = 1.0
    data = as_fits(unit).replace(b"EXPTIME =                  1.0", b"BLANK   =               -32768")
    with pytest.warns(fits.verify.VerifyWarning, match="BLANK"), fits.open(io.BytesIO(data)) as units:
        units[0].data.sum()  # what astropy does by itself
    np.testing.assert_array_equal(read(data), 1)


# ---- NumPy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axis"), [((9, 12), None), ((9, 12, 3), 2), ((5, 9, 12), 0), ((1, 9, 12), 0), ((20, 30, 16), 2)]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_axes(shape: tuple[int, ...], axis: int | None, order: Any) -> None:
    array = np.asarray(RNG.normal(size=shape).astype(">f8"), order=order)
    pixels = read(as_npy(array))
    expected = array[..., None] if axis is None else np.moveaxis(array, axis, 2)
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, expected.astype(np.float32))


@pytest.mark.parametrize("shape", [(3, 20, 3), (20, 3, 20), (64, 64, 64), (30, 20, 17)])
def test_npy_ambiguous_axes_are_refused_with_the_remedy(shape: tuple[int, ...]) -> None:
    with pytest.raises(Unreadable, match=r"ambiguous: save \[y, x, channel\]"):
        read(as_npy(np.zeros(shape)))


@pytest.mark.parametrize(
    ("array", "kind"),
    [(DEEP, np.uint16), (DEEP.astype(">u2"), np.uint16), (GREY, np.uint8), (GREY.astype(np.int64), np.float32)],
)
def test_npy_types(array: np.ndarray, kind: type) -> None:
    pixels = read(as_npy(array))
    assert pixels.dtype == kind
    assert pixels.dtype.isnative
    np.testing.assert_array_equal(pixels[..., 0], array)
    assert read(as_npy(GREY > 3)).max() == 255


# ---- what cannot be read -----------------------------------------------------------------------------

HALF_A_JPEG = as_jpeg(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "0 bytes"),
    "text": (b"this is not an image\n", "not an image Greenpea reads: PNG, JPEG, FITS, TIFF, NPY, NPZ"),
    "half a JPEG": (HALF_A_JPEG[: len(HALF_A_JPEG) // 2], "the JPEG is truncated"),
    "a JPEG's first bytes": (HALF_A_JPEG[:20], "the JPEG is broken"),
    "half a PNG": (as_png(RGB)[:150], "the PNG is truncated"),
    "a PNG of nonsense": (b"\x89PNG\r\n\x1a\n" + b"nonsense" * 20, "the PNG is broken"),
    "half a FITS": (as_fits(fits.PrimaryHDU(np.ones((90, 90))))[:9000], "the FITS is truncated"),
    "a FITS without END": (b"SIMPLE  =                    T".ljust(2880), "the FITS is truncated, or its header"),
    "a FITS table": (
        as_fits(fits.PrimaryHDU(), fits.BinTableHDU.from_columns([])),
        "no image of two or three axes",
    ),
    "a FITS of NaN": (as_fits(fits.PrimaryHDU(np.full((3, 4), np.nan))), "every pixel is NaN"),
    "an NPY of infinity": (as_npy(np.full((3, 4), np.inf)), "every pixel is NaN"),
    "half an NPY": (as_npy(np.ones((30, 30)))[:500], "the NPY is truncated"),
    "an NPY of objects": (as_npy(np.array([[{}]]), allow_pickle=True), "Python objects"),
    "an NPY of complex": (as_npy(np.ones((3, 3), complex)), "complex128"),
    "an NPY of words": (as_npy(np.array([["a"]])), "values are <U1"),
    "an NPY without pixels": (as_npy(np.ones((0, 4))), "no pixels"),
    "an NPY of one axis": (as_npy(np.ones(7)), r"shape \(7,\)"),
    "half a gzip": (gzip.compress(as_fits(fits.PrimaryHDU(RGB)))[:50], "gzip is truncated"),
    "a gzip of text": (gzip.compress(b"hello"), "not an image Greenpea reads"),
    "a GIF": (encoded(GREY, "GIF"), "not an image Greenpea reads"),
}

WHOLE = [as_png(RGB), as_png(DEEP), as_jpeg(RGB), as_fits(fits.PrimaryHDU(DEEP)), as_npy(RGB)]
WHOLE += [as_tiff(DEEP, compression="zlib"), as_tiff(RGB, photometric="rgb"), as_npz(a=DEEP, b=RGB)]


@pytest.mark.parametrize("name", BROKEN)
def test_unreadable_says_why_in_plain_words(tmp_path: Path, name: str) -> None:
    data, message = BROKEN[name]
    with pytest.raises(Unreadable, match=message):
        read(data)
    path = tmp_path / "m 31.png"
    path.write_bytes(data)
    with pytest.raises(Unreadable, match=r"m 31\.png: ") as caught:
        read(path)
    assert not caught.value.reason.startswith(str(tmp_path))
    with pytest.raises(Unreadable, match=r"^subject 7: "):
        read(path, name="subject 7")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"a\.png: file not found"):
        read(tmp_path / "a.png")
    with pytest.raises(Unreadable, match="folder, not a file"):
        read(tmp_path)


def test_bombs_are_refused_before_they_take_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = as_png(Image.new("1", (20_000, 20_000)))
    assert len(huge) < 100_000
    with pytest.raises(Unreadable, match="20000 × 20000 pixels is more"):  # and no warning, which would be an error
        read(huge)
    claim = as_npy(np.zeros((2, 2))).replace(b"(2, 2)", b"(9999999, 9999999)").replace(b" " * 11 + b"\n", b"\n")
    with pytest.raises(Unreadable, match="truncated"):
        read(claim)
    monkeypatch.setattr(formats.common, "MAX_PIXELS", 50)
    for data in (
        as_png(GREY),
        as_jpeg(GREY),
        as_fits(fits.PrimaryHDU(GREY)),
        as_npy(GREY),
        as_tiff(GREY),
        as_npz(a=GREY),
    ):
        with pytest.raises(Unreadable, match="12 × 9 pixels is more"):
            read(data)
    monkeypatch.setattr(formats, "MAX_UNPACKED", 1000)
    with pytest.raises(Unreadable, match="holds more than"):
        read(gzip.compress(bytes(10**6)))


@settings(max_examples=150)
@given(st.data())
def test_damage_leaves_an_image_or_a_reason_and_never_a_warning(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(WHOLE), label="format"))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Unreadable):
        pixels = read(bytes(content[: data.draw(st.integers(0, len(content)))]))
        assert pixels.ndim == 3
        assert pixels.dtype in (np.uint8, np.uint16, np.float32)


def test_long_text_in_a_png_is_no_bomb() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 10**8, zip=True)
    with pytest.raises(Unreadable, match="the PNG is broken"):
        read(as_png(GREY, pnginfo=text))


# ---- preparation -------------------------------------------------------------------------------------


def test_preparation_survives_json_and_refuses_the_unknown() -> None:
    preparation = Preparation(size=32, crop=0.7, stretch="lupton", bands=(3, 2, 1), black=-0.1, scale=2.5, q=10)
    assert Preparation.model_validate_json(preparation.model_dump_json()) == preparation
    for wrong in (
        {"sise": 3},
        {"size": 0},
        {"crop": 0.0},
        {"crop": 1.5},
        {"stretch": "log"},
        {"percentiles": (60, 40)},
        {"percentiles": (0, 101)},
        {"scale": 0.0},
        {"black": float("nan")},
        {"stretch": "lupton", "bands": (0, 1)},
        {"bands": ()},
    ):
        with pytest.raises(ValidationError):
            Preparation(**wrong)
    with pytest.raises(ValidationError):
        preparation.size = 3  # type: ignore[misc]


def test_eight_bit_images_of_the_wanted_size_are_untouched() -> None:
    prepared = Preparation(size=9).prepare(RGB)
    assert prepared.dtype == np.uint8
    assert prepared.flags.c_contiguous
    np.testing.assert_array_equal(prepared, RGB[:, 1:10].transpose(2, 0, 1))


def test_crop_keeps_the_centre() -> None:
    array = np.arange(20 * 30, dtype=np.float32).reshape(20, 30, 1)
    prepared = Preparation(size=10, crop=0.5, stretch="linear", black=0, scale=1000).prepare(array)
    np.testing.assert_allclose(prepared[0], array[5:15, 10:20, 0] / 1000, rtol=1e-6)


@pytest.mark.parametrize("size", [16, 50, 64, 200])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_resizing_keeps_the_mean_and_the_place_of_light(size: int, kind: type) -> None:
    array = smooth(128)
    array = np.rint(250 * array).astype(np.uint8) if kind == np.uint8 else array.astype(np.float32)
    unit = 255 if kind == np.uint8 else 1
    prepared = Preparation(size=size, stretch="none").prepare(array).astype(float) / unit
    whole = array.transpose(2, 0, 1).astype(float) / unit
    # 8-bit rounding is half a level at most, and upwards where halves are common (a factor of two).
    rounding = 0.2 / 255 if kind == np.uint8 else 0.0
    np.testing.assert_allclose(prepared.mean(axis=(1, 2)), whole.mean(axis=(1, 2)), rtol=2e-3, atol=rounding)

    def centre(images: np.ndarray) -> np.ndarray:
        place = (np.arange(images.shape[2]) + 0.5) / images.shape[2]
        light = images.sum(axis=(1, 2))
        return np.array([(images.sum(axis=1) @ place) / light, (images.sum(axis=2) @ place) / light])

    np.testing.assert_allclose(centre(prepared), centre(whole), atol=2e-3)


def test_resizing_is_antialiased_and_makes_no_dark_rings() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (128, 64))[..., None]
    assert np.ptp(Preparation(size=32).prepare(stripes).astype(int)[:, 2:-2, 2:-2]) <= 2
    star = np.zeros((128, 128, 1), np.float32)
    star[60:64, 60:64] = 1
    prepared = Preparation(size=50, stretch="none").prepare(star)
    assert prepared.min() == 0.0
    np.testing.assert_allclose(prepared.sum() * (128 / 50) ** 2, 16, rtol=1e-2)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turning_an_image_turns_what_is_prepared(turns: int) -> None:
    preparation = Preparation(size=20, stretch="asinh")
    array = smooth(64, 5).astype(np.float32)
    np.testing.assert_allclose(
        preparation.prepare(np.rot90(array, turns)), np.rot90(preparation.prepare(array), turns, (1, 2)), atol=1e-5
    )


@pytest.mark.parametrize(("name", "stretch"), [("linear", LinearStretch()), ("asinh", AsinhStretch(0.05))])
def test_stretches_agree_with_astropy(name: Any, stretch: Any) -> None:
    array = RNG.gamma(0.5, 100, (24, 24, 1)).astype(np.float32)
    automatic = Preparation(size=24, stretch=name, softening=0.05, percentiles=(1, 98)).prepare(array)
    expected = stretch(AsymmetricPercentileInterval(1, 98)(array[..., 0]))
    assert automatic.dtype == np.float32
    np.testing.assert_allclose(automatic[0], expected, atol=1e-5)
    fixed = Preparation(size=24, stretch=name, softening=0.05, black=20, scale=300).prepare(array)
    np.testing.assert_allclose(fixed[0], stretch(np.clip((array[..., 0] - 20) / 300, 0, 1)), atol=1e-5)


def test_one_fixed_level_and_one_from_the_image() -> None:
    array = np.linspace(10, 110, 101, dtype=np.float32).reshape(1, 101, 1).repeat(101, axis=0)
    only_black = Preparation(size=101, stretch="linear", black=60, percentiles=(0, 100)).prepare(array)
    np.testing.assert_allclose(only_black[0, 0], np.clip((array[0, :, 0] - 60) / 50, 0, 1), atol=1e-6)
    only_scale = Preparation(size=101, stretch="linear", scale=200, percentiles=(0, 100)).prepare(array)
    np.testing.assert_allclose(only_scale[0, 0], (array[0, :, 0] - 10) / 200, atol=1e-6)


def test_fixed_levels_keep_brightness_comparable() -> None:
    faint, bright = smooth(32).astype(np.float32), 3 * smooth(32).astype(np.float32)
    own = Preparation(size=32, stretch="linear")
    np.testing.assert_allclose(own.prepare(faint), own.prepare(bright), atol=1e-5)
    fixed = Preparation(size=32, stretch="linear", black=0, scale=10)
    np.testing.assert_allclose(3 * fixed.prepare(faint), fixed.prepare(bright), atol=1e-5)


def test_levels_are_common_to_the_channels_so_that_colour_survives() -> None:
    prepared = Preparation(size=32, stretch="linear", percentiles=(0, 100)).prepare(smooth(32).astype(np.float32))
    np.testing.assert_allclose(prepared[0].max() / prepared[2].max(), 1 / 3, atol=1e-3)


@pytest.mark.parametrize("bands", [None, (4, 2, 0)])
def test_lupton_agrees_with_astropy(bands: Any) -> None:
    array = (50 * smooth(32, 5) + RNG.normal(1, 0.3, (32, 32, 5))).astype(np.float32)
    prepared = Preparation(size=32, stretch="lupton", bands=bands, black=0.5, scale=3, q=6).prepare(array)
    planes = [array[..., band].astype(float) for band in bands or (2, 1, 0)]
    expected = make_lupton_rgb(*planes, minimum=0.5, stretch=3, Q=6)
    assert prepared.dtype == np.uint8
    np.testing.assert_array_equal(prepared, expected.transpose(2, 0, 1))


def test_lupton_by_itself_shows_black_and_white() -> None:
    grey = np.repeat(smooth(64, 1), 3, axis=2).astype(np.float32) * 1e4
    prepared = Preparation(size=64, stretch="lupton").prepare(grey)
    low, high = np.percentile(grey, (0.25, 99.75))
    assert prepared[:, grey[..., 0] <= low].max() <= 1
    assert prepared[:, grey[..., 0] >= high].min() >= 254
    assert prepared[:, grey[..., 0] < 0.9 * high].max() < 254


def test_auto_stretches_what_is_not_eight_bit() -> None:
    deep = DEEP[:9, :9, None]
    auto = Preparation(size=9).prepare(deep)
    assert auto.dtype == np.float32
    np.testing.assert_array_equal(auto, Preparation(size=9, stretch="asinh").prepare(deep))
    np.testing.assert_allclose(Preparation(size=9, stretch="none").prepare(deep)[0], deep[..., 0] / 65535, atol=1e-6)


def test_stretch_none_refuses_values_it_would_cut_off() -> None:
    with pytest.raises(Unreadable, match="from -5 to 2, not from 0 to 1: choose stretch asinh"):
        Preparation(size=2, stretch="none").prepare(np.array([[[-5.0], [2.0]], [[0.0], [0.0]]], np.float32))


@pytest.mark.parametrize("stretch", ["auto", "linear", "asinh", "lupton"])
def test_a_blank_image_is_allowed(stretch: Any) -> None:
    prepared = Preparation(size=8, stretch=stretch).prepare(np.full((20, 20, 3), 7.0, np.float32))
    assert prepared.shape == (3, 8, 8)
    np.testing.assert_array_equal(prepared, 0)
    assert (Preparation(size=8).prepare(np.full((20, 20, 3), 7, np.uint8)) == 7).all()


def test_grey_and_colour_convert() -> None:
    grey, colour = GREY[:, :9, None], RGB[:, :9]
    np.testing.assert_array_equal(
        Preparation(size=9, channels=3).prepare(grey), np.repeat(grey, 3, 2).transpose(2, 0, 1)
    )
    mean = Preparation(size=9, channels=1).prepare(colour)
    assert mean.dtype == np.uint8
    np.testing.assert_array_equal(mean[0], np.rint(colour.mean(axis=2)))
    bands = smooth(9, 5).astype(np.float32)
    np.testing.assert_allclose(
        Preparation(size=9, channels=1, stretch="none").prepare(bands)[0], bands.mean(axis=2), atol=1e-6
    )
    with pytest.raises(Unreadable, match="5 channels and 3 are wanted: choose them with bands"):
        Preparation(size=9, channels=3, stretch="none").prepare(bands)


def test_bands_are_chosen_in_order() -> None:
    bands = smooth(9, 5).astype(np.float32)
    chosen = Preparation(size=9, stretch="none", bands=(4, 0)).prepare(bands)
    np.testing.assert_allclose(chosen, bands[..., [4, 0]].transpose(2, 0, 1), atol=1e-6)
    with pytest.raises(Unreadable, match="band 5 is wanted and the image has 5"):
        Preparation(size=9, bands=(5,)).prepare(bands)


# ---- loading -----------------------------------------------------------------------------------------


def folder_of(folder: Path, **contents: bytes) -> SubjectSet:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / f"{name}.png").write_bytes(data)  # the ending lies, where the content is something else
    return SubjectSet.from_folder(folder)


def test_every_format_loads_from_nested_folders(tmp_path: Path) -> None:
    array = np.rint(200 * smooth(32)).astype(np.uint8)
    contents = {"png": as_png(array), "jpg": as_jpeg(array), "npy": as_npy(array)}
    contents["fits"] = as_fits(fits.PrimaryHDU(array.transpose(2, 0, 1)))
    for index, (ending, data) in enumerate(contents.items()):
        folder = tmp_path / "été 2024" / f"nuit {index}"
        folder.mkdir(parents=True)
        (folder / f"galaxie ü.{ending}").write_bytes(data)
    loaded = load(SubjectSet.from_folder(tmp_path), Preparation(size=32))
    assert loaded.unreadable == ()
    assert loaded.images.shape == (4, 3, 32, 32)
    assert loaded.images.dtype == np.uint8
    assert loaded.images.flags.c_contiguous
    np.testing.assert_allclose(loaded.images, np.broadcast_to(array.transpose(2, 0, 1), (4, 3, 32, 32)), atol=5)


@pytest.mark.parametrize("workers", [1, 4])
def test_nothing_vanishes_and_everything_stays_in_order(tmp_path: Path, workers: int) -> None:
    table = tmp_path / "t.csv"
    count = 100
    broken = {0: b"", 37: HALF_A_JPEG[:900], 98: b"words", 99: None}
    for index in range(count):
        if (data := broken.get(index, bytes_of(index))) is not None:
            (tmp_path / f"{index}.png").write_bytes(data)
    table.write_text("id,file\n" + "".join(f"s{index},{index}.png\n" for index in range(count)))
    done: list[int] = []
    loaded = load(SubjectSet.from_table(table), Preparation(size=8), workers, done.append)
    assert loaded.unreadable == (
        UnreadableSubject("s0", "the image is empty (0 bytes)"),
        UnreadableSubject("s37", "the JPEG is truncated"),
        UnreadableSubject("s98", "not an image Greenpea reads: PNG, JPEG, FITS, TIFF, NPY, NPZ"),
        UnreadableSubject("s99", "file not found: 99.png"),
    )
    assert len(loaded.rows) + len(loaded.unreadable) == count
    assert loaded.rows.tolist() == [index for index in range(count) if index not in broken]
    np.testing.assert_array_equal(loaded.images[:, 0, 0, 0], loaded.rows)
    np.testing.assert_array_equal(loaded.filled, 0)
    assert loaded.images.flags.c_contiguous
    assert done == list(range(1, count + 1))


def test_missing_pixels_hold_the_background_and_are_counted(tmp_path: Path) -> None:
    clean = (5 + smooth(40)).astype(np.float32)
    holes = clean.copy()
    holes[3:6, 3:6] = np.nan
    holes[0, 0, 1] = np.inf
    subjects = folder_of(
        tmp_path,
        a=as_npy(clean),
        b=as_npy(holes),
        c=as_fits(fits.PrimaryHDU(np.full((3, 40, 40), np.nan))),
    )
    loaded = load(subjects, Preparation(size=40, stretch="linear", black=5, scale=1))
    assert loaded.unreadable == (UnreadableSubject("c", "every pixel is NaN"),)
    assert loaded.filled.tolist() == [0, 10]
    median = np.median(clean[..., 2])
    np.testing.assert_allclose(loaded.images[1, 2, 3:6, 3:6], np.clip(median - 5, 0, 1), atol=1e-3)
    np.testing.assert_array_equal(loaded.images[1, :, 10:], loaded.images[0, :, 10:])
    no_green = clean.copy()
    no_green[..., 1] = np.nan
    filled = Preparation(size=40, stretch="linear", black=5, scale=1).prepare(no_green)
    np.testing.assert_allclose(filled[1], np.median(clean[..., [0, 2]]) - 5, atol=1e-6)
    only_edges = np.full((40, 40, 1), np.nan, np.float32)
    only_edges[0] = 1
    with pytest.raises(Unreadable, match="in the part that is used"):
        Preparation(crop=0.5).prepare(only_edges)


def test_mixed_channels_are_refused_with_counts_examples_and_remedy(tmp_path: Path) -> None:
    subjects = folder_of(tmp_path, a=bytes_of(10), b=bytes_of(20, channels=1), c=bytes_of(30), d=b"")
    with pytest.raises(
        GreenpeaError, match=r"2 with 3 channels.*'a'.*1 with 1 channel .*'b'.*--set images\.channels=3 \(or 1\)"
    ):
        load(subjects, Preparation(size=8))
    with pytest.raises(GreenpeaError, match=r"--set images\.channels=3"):
        list(batches(subjects, Preparation(size=8), 2))
    for channels in (1, 3):
        loaded = load(subjects, Preparation(size=8, channels=channels))
        assert loaded.images.shape == (3, channels, 8, 8)
        assert (loaded.images == np.array([10, 20, 30])[:, None, None, None]).all()


def test_mixed_bands_are_refused_with_their_own_remedy(tmp_path: Path) -> None:
    three, five = (as_npy(smooth(8, bands).astype(np.float32)) for bands in (3, 5))
    subjects = folder_of(tmp_path, a=three, b=five, c=five)
    with pytest.raises(
        GreenpeaError, match=r"2 with 5 channels.*'b'.*1 with 3.*'a'.*images\.channels=1.*images\.bands"
    ):
        load(subjects, Preparation(size=8))
    assert load(subjects, Preparation(size=8, bands=(0, 2))).images.shape == (3, 2, 8, 8)


def test_mixed_depths_are_refused_with_the_remedy(tmp_path: Path) -> None:
    subjects = folder_of(tmp_path, a=as_png(GREY), b=as_png(DEEP))
    with pytest.raises(GreenpeaError, match=r"of 8 bits.*'a'.*of 32 bits.*'b'.*--set images\.stretch=asinh"):
        load(subjects, Preparation(size=8))
    assert load(subjects, Preparation(size=8, stretch="asinh")).images.dtype == np.float32


def test_all_unreadable_is_an_empty_result(tmp_path: Path) -> None:
    loaded = load(folder_of(tmp_path, a=b"", b=b"x"), Preparation(size=8, channels=3))
    assert loaded.images.shape == (0, 3, 8, 8)
    assert len(loaded) == 0
    assert [subject.subject_id for subject in loaded.unreadable] == ["a", "b"]


def test_embedded_images_shuffled_over_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    contents = [{"bytes": bytes_of(index) if index != 5 else None, "path": None} for index in range(60)]
    table = pa.table({"id": [f"s{index}" for index in range(60)], "image": pa.array(contents, kind)})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=7)
    order = RNG.permutation(60)
    subjects = SubjectSet.from_table(tmp_path / "t.parquet").select(order)
    groups: list[int] = []
    read_group = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, **how: groups.append(group) or read_group(self, group, **how),
    )
    loaded = load(subjects, Preparation(size=8), workers=1)
    assert groups == list(range(9))
    assert [subject.subject_id for subject in loaded.unreadable] == ["s5"]
    np.testing.assert_array_equal(loaded.images[:, 0, 0, 0], order[loaded.rows])
    (tmp_path / "t.parquet").rename(tmp_path / "elsewhere.parquet")
    gone = load(SubjectSet(subjects.subject_ids, subjects.locations, subjects.metadata), Preparation(size=8))
    assert len(gone.unreadable) == 60
    assert "not found" in gone.unreadable[0].reason


def test_batches_give_what_load_gives(tmp_path: Path) -> None:
    contents = {f"s{index:03d}": bytes_of(index) if index % 7 else b"" for index in range(50)}
    contents |= {f"s{index:03d}": b"" for index in range(20, 30)}
    subjects = folder_of(tmp_path, **contents)
    loaded = load(subjects, Preparation(size=8))
    seen = list(batches(subjects, Preparation(size=8), batch_size=10, workers=3))
    assert [len(rows) + len(unreadable) for rows, _, unreadable in seen] == [10] * 5
    np.testing.assert_array_equal(np.concatenate([rows for rows, _, _ in seen]), loaded.rows)
    np.testing.assert_array_equal(np.concatenate([images for _, images, _ in seen]), loaded.images)
    assert tuple(subject for _, _, unreadable in seen for subject in unreadable) == loaded.unreadable
    assert seen[2][1].shape == (0, 3, 8, 8)


class AtOnce(ThreadPoolExecutor):
    """Work is done where it is handed over, so that how far ahead is known."""

    def submit(self, work: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*arguments, **options))
        return future


def test_batches_read_no_further_than_one_batch_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subjects = folder_of(tmp_path, **{f"s{index:03d}": bytes_of(index) for index in range(200)})
    asked: list[int] = []
    sources = SubjectSet.sources
    monkeypatch.setattr(SubjectSet, "sources", lambda self, row: asked.append(row) or sources(self, row))
    monkeypatch.setattr("greenpea.runner.ThreadPoolExecutor", AtOnce)
    stream = batches(subjects, Preparation(size=8), batch_size=32)
    for batch in range(1, 4):
        next(stream)
        assert 32 * batch + 32 <= len(asked) <= 32 * batch + 32 + images.CHUNK
    stream.close()


def test_an_error_in_the_caller_reaches_the_caller(tmp_path: Path) -> None:
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(folder_of(tmp_path, a=bytes_of(1), b=bytes_of(2)), Preparation(size=8), progress=stop)


def test_large_jpegs_are_decoded_small_without_a_visible_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rough = np.clip(255 * smooth(600) + RNG.normal(40, 8, (600, 600, 3)), 0, 255).astype(np.uint8)
    subjects = folder_of(tmp_path, a=as_jpeg(rough))
    data = (tmp_path / "a.png").read_bytes()
    assert formats.decode(data, at_least=128).shape == (150, 150, 3)
    assert formats.decode(data, at_least=151).shape == (300, 300, 3)
    assert formats.decode(data).shape == (600, 600, 3)
    wanted: list[int | None] = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda data, least, parts: wanted.append(least) or decode(data, least))
    load(subjects, Preparation(size=50, crop=0.4))
    assert wanted == [250]  # the part that is used has twice the size wanted
    small = load(subjects, Preparation(size=64)).images[0].astype(float)
    whole = Preparation(size=64).prepare(read(data)).astype(float)
    assert np.sqrt(np.mean((small - whole) ** 2)) < 1.0  # of 255


def test_native_size(tmp_path: Path) -> None:
    sizes = {"a": (20, 30), "b": (40, 24), "c": (99, 99)}
    subjects = folder_of(tmp_path, d=b"", **{name: as_png(np.zeros(shape, np.uint8)) for name, shape in sizes.items()})
    assert native_size(subjects) == 24
    assert native_size(subjects, sample=1) == 20
    with pytest.raises(GreenpeaError, match=r"none of 1 images can be read.* 'a' in '.*other/a.*0 bytes"):
        native_size(folder_of(tmp_path / "other", a=b""))


@pytest.mark.data
@pytest.mark.parametrize(
    ("path", "side"),
    [
        ("gz2/votes.csv", 200),
        ("efigi/attributes.csv", 88),
        ("rings/rings.csv", 128),
        ("gz1/classes.csv", 96),
        ("cifar10h/test.parquet", 32),
    ],
)
def test_real_images_all_load(data_folder: Path, path: str, side: int) -> None:
    subjects = SubjectSet.open(data_folder / path)
    assert native_size(subjects, sample=8) == side
    loaded = load(subjects, Preparation(size=32))
    assert loaded.unreadable == ()
    assert loaded.images.shape == (len(subjects), 3, 32, 32)
    assert loaded.images.dtype == np.uint8
    assert (np.ptp(loaded.images.reshape(len(loaded), -1), axis=1) > 20).all()


@pytest.mark.data
def test_a_folder_of_real_images_loads_as_its_table_does(data_folder: Path) -> None:
    folder = SubjectSet.open(data_folder / "gz2" / "images")
    table = SubjectSet.open(data_folder / "gz2" / "votes.csv")
    rows = np.array([list(folder.subject_ids).index(subject) for subject in table.subject_ids[:20]])
    preparation = Preparation(size=16)
    np.testing.assert_array_equal(
        load(folder.select(rows), preparation).images, load(table.select(range(20)), preparation).images
    )
