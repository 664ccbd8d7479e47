"""Formats with several parts or depths: TIFF, deep PNG, NPZ, multi-extension FITS, several files as bands."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from astropy.io import fits
from PIL import Image

from greenpea.formats import Unreadable, read
from greenpea.images import Preparation, assemble, load, native_size
from greenpea.packing import pack
from greenpea.site.pictures import picture
from greenpea.subjects import SubjectSet

RNG = np.random.default_rng(3)
GREY = RNG.integers(0, 256, (9, 12), dtype=np.uint8)
RGB = RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (9, 12), dtype=np.uint16)
DEEP_RGB = RNG.integers(0, 65536, (9, 12, 3), dtype=np.uint16)
REAL = RNG.normal(0, 100, (9, 12)).astype(np.float32)


def as_tiff(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **{"photometric": "minisblack"} | options)
    return file.getvalue()


def by_pillow(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "TIFF", **options)
    return file.getvalue()


def as_fits(*units: Any) -> bytes:
    file = io.BytesIO()
    fits.HDUList(list(units)).writeto(file)
    return file.getvalue()


def deep_png(array: np.ndarray, kind: int, interlaced: bool = False) -> bytes:
    """A PNG of 16 bits a channel, a filter of its own for each row (PNG specification, sections 5, 7 and 9)."""
    height, width, channels = array.shape
    rows = array.astype(">u2").view(np.uint8).reshape(height, width * channels * 2).astype(int)
    before, step = np.zeros(rows.shape[1], int), 2 * channels
    packed = b""
    for number, row in enumerate(rows):
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), before[:-step]])
        guess = left + before - corner
        distances = np.abs(guess - np.stack([left, before, corner]))
        paeth = np.choose(distances.argmin(axis=0), [left, before, corner])
        wanted = [0, left, before, (left + before) // 2, paeth][number % 5]
        packed += bytes([number % 5]) + ((row - wanted) % 256).astype(np.uint8).tobytes()
        before = row
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, int(interlaced))
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(packed)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


# ---- TIFF --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", [GREY, DEEP, REAL, REAL.astype(np.float64), DEEP.astype(np.int32)])
@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib", "predictor": True}, {"bigtiff": True}, {"byteorder": ">"}]
)
def test_tiff_gives_its_values_back(array: np.ndarray, options: dict[str, Any]) -> None:
    if options.get("predictor") and array.dtype.kind == "f":
        options = {"compression": "zlib"}
    pixels = read(as_tiff(array, **options))
    assert pixels.dtype == (array.dtype if array.dtype in (np.uint8, np.uint16) else np.float32)
    np.testing.assert_array_equal(pixels[..., 0], array.astype(pixels.dtype))


@pytest.mark.parametrize("array", [RGB, DEEP_RGB])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_colours_keep_their_depth(array: np.ndarray, planar: str) -> None:
    stored = array if planar == "contig" else np.moveaxis(array, 2, 0)
    pixels = read(as_tiff(stored, photometric="rgb", planarconfig=planar))
    assert pixels.dtype == array.dtype
    np.testing.assert_array_equal(pixels, array)


def test_tiff_bands_and_pages_become_channels() -> None:
    cube = RNG.normal(0, 1, (5, 9, 12)).astype(np.float32)
    for data in (as_tiff(cube), as_tiff(np.moveaxis(cube, 0, 2), planarconfig="contig")):
        np.testing.assert_array_equal(read(data), np.moveaxis(cube, 0, 2))
    np.testing.assert_array_equal(read(as_tiff(cube), extensions=[3, 0]), np.moveaxis(cube[[3, 0]], 0, 2))
    with pytest.raises(Unreadable, match=r"the TIFF has no page 7: it has 0, 1, 2, 3, 4"):
        read(as_tiff(cube), extensions=[7])
    with pytest.raises(Unreadable, match=r"axes ZCYX: choose pages with images\.extensions"):
        read(as_tiff(np.zeros((2, 3, 9, 12), np.uint8), imagej=True))


def test_tiff_opacity_is_laid_over_black() -> None:
    opacity = np.tile(np.array([0, 128, 255, 64], np.uint8), (9, 3))[..., None]
    data = as_tiff(np.concatenate([RGB, opacity], axis=2), photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_allclose(read(data), RGB * (opacity / 255.0), atol=0.5 + 1e-9)
    four = as_tiff(np.concatenate([RGB, opacity], axis=2), photometric="rgb", extrasamples=["unspecified"])
    assert read(four).shape == (9, 12, 4)  # a fourth band is no opacity


@pytest.mark.parametrize("array", [GREY, RGB, DEEP, REAL])
def test_tiff_that_tifffile_cannot_unpack_is_read_by_pillow(array: np.ndarray) -> None:
    pixels = read(by_pillow(array, compression="tiff_lzw"))
    assert pixels.dtype == array.dtype
    np.testing.assert_array_equal(pixels, array.reshape(9, 12, -1))


def test_tiff_pages_by_pillow() -> None:
    file = io.BytesIO()
    first, *others = (Image.fromarray(page) for page in (DEEP, DEEP + 1, DEEP + 2))
    first.save(file, "TIFF", compression="tiff_lzw", save_all=True, append_images=others)
    np.testing.assert_array_equal(read(file.getvalue()), np.stack([DEEP, DEEP + 1, DEEP + 2], axis=2))
    np.testing.assert_array_equal(read(file.getvalue(), extensions=[2])[..., 0], DEEP + 2)


def test_tiff_palette_is_looked_up() -> None:
    image = Image.fromarray(RGB).quantize(16)
    file = io.BytesIO()
    image.save(file, "TIFF")
    np.testing.assert_array_equal(read(file.getvalue()), np.asarray(image.convert("RGB")))


def test_tiff_whose_codec_is_missing_says_what_to_install() -> None:
    data = bytearray(as_tiff(DEEP_RGB, photometric="rgb"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        data[file.pages[0].tags["Compression"].valueoffset] = 5  # LZW, it claims
    if _has_imagecodecs():
        pytest.skip("imagecodecs is installed")
    with pytest.raises(Unreadable, match=r"compressed as LZW.*3 channels of 16 bits.*greenpea\[tiff\].*deflate"):
        read(bytes(data))


def _has_imagecodecs() -> bool:
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_tiff_cut_short_is_unreadable(share: float) -> None:
    data = as_tiff(RNG.integers(0, 255, (200, 200), dtype=np.uint8), compression="zlib")
    with pytest.raises(Unreadable, match="the TIFF"):
        read(data[: int(share * len(data))])


# ---- deep PNG, NPZ -----------------------------------------------------------------------------------


def test_png_of_16_bits_keeps_its_colours() -> None:
    pixels = read(deep_png(DEEP_RGB, 2))
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, DEEP_RGB)
    opacity = np.full((9, 12, 1), 65535, np.uint16)
    opacity[:3] = 0
    pixels = read(deep_png(np.concatenate([DEEP_RGB, opacity], axis=2), 6))
    np.testing.assert_array_equal(pixels, np.where(opacity > 0, DEEP_RGB, 0))


def test_npz_first_image_or_the_chosen_ones() -> None:
    file = io.BytesIO()
    np.savez(file, names=np.array(["a", "b"]), g=REAL, r=REAL + 1, cube=np.zeros((9, 12, 2), np.float32))
    np.testing.assert_array_equal(read(file.getvalue())[..., 0], REAL)
    np.testing.assert_array_equal(read(file.getvalue(), extensions=["r", 1]), np.stack([REAL + 1, REAL], axis=2))
    with pytest.raises(Unreadable, match="the NPZ has no array 'z': it has 0 names, 1 g, 2 r, 3 cube"):
        read(file.getvalue(), extensions=["z"])
    empty = io.BytesIO()
    np.savez(empty, names=np.array(["a"]))
    with pytest.raises(Unreadable, match="the NPZ holds no image"):
        read(empty.getvalue())


# ---- FITS --------------------------------------------------------------------------------------------

BANDS = {"G": REAL, "R": REAL + 1, "Z": REAL + 2}


def several() -> bytes:
    """A primary without data, a table, three bands of which one is compressed, and a mask in two versions."""
    table = fits.BinTableHDU.from_columns([fits.Column("x", "J", array=[1, 2])], name="PSF")
    units = [
        fits.ImageHDU(BANDS["G"], name="G"),
        fits.CompImageHDU(BANDS["R"], name="R", compression_type="GZIP_1", quantize_level=0),
    ]
    masks = [fits.ImageHDU(np.full((9, 12), version, np.int16), name="MASK", ver=version) for version in (1, 2)]
    return as_fits(fits.PrimaryHDU(), table, *units, fits.ImageHDU(BANDS["Z"], name="Z"), *masks)


def test_fits_extensions_by_number_name_and_version() -> None:
    data = several()
    np.testing.assert_array_equal(read(data)[..., 0], BANDS["G"])
    wanted = np.stack([BANDS["Z"], BANDS["G"], BANDS["R"]], axis=2)
    for extensions in (["Z", "g", "R"], [4, 2, 3], ["Z,1", 2, "r"]):
        np.testing.assert_array_equal(read(data, extensions=extensions), wanted)
    assert read(data, extensions=["MASK,2"])[0, 0, 0] == 2
    np.testing.assert_array_equal(read(gzip.compress(data), extensions=["Z"])[..., 0], BANDS["Z"])


@pytest.mark.parametrize(
    ("extensions", "message"),
    [
        (["K"], r"no extension 'K': it has 0 PRIMARY \(no image\), 1 PSF \(no image\), 2 G, 3 R, 4 Z, 5 MASK, 6 MASK"),
        ([9], "no extension 9"),
        (["PSF"], "extension 'PSF' is no image"),
        ([0], "extension 0 is no image"),
    ],
)
def test_fits_extensions_that_are_not_there(extensions: list[Any], message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        read(several(), extensions=extensions)


def test_parts_of_different_sizes_are_refused() -> None:
    data = as_fits(fits.PrimaryHDU(REAL), fits.ImageHDU(np.zeros((4, 4), np.float32)))
    with pytest.raises(Unreadable, match="different sizes in pixels: 12 × 9, 4 × 4"):
        read(data, extensions=[0, 1])


def test_a_format_of_one_image_has_no_other_parts(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png", extensions=[0]).shape == (9, 12, 3)
    with pytest.raises(Unreadable, match=r"a PNG holds one image, and images\.extensions asks for \['SCI'\]"):
        read(tmp_path / "a.png", extensions=["SCI"])


def test_a_cube_with_missing_pixels_is_prepared_and_counted(tmp_path: Path) -> None:
    cube = RNG.normal(0, 1, (1, 4, 20, 20)).astype(np.float32)
    cube[0, 2, 3:6, 4] = np.nan
    cube[0, 3, 3, 4] = np.inf
    (tmp_path / "a.fits").write_bytes(as_fits(fits.PrimaryHDU(cube)))
    loaded = load(SubjectSet.from_folder(tmp_path), Preparation(size=10, bands=(2, 3)))
    assert loaded.filled.tolist() == [3]
    assert loaded.images.shape == (1, 2, 10, 10)
    assert np.isfinite(loaded.images).all()


def test_extensions_are_a_setting_that_changes_no_older_fingerprint() -> None:
    assert "extensions" not in Preparation().model_dump_json()
    chosen = Preparation(extensions=["SCI", 3])
    assert Preparation.model_validate_json(chosen.model_dump_json()) == chosen
    with pytest.raises(ValueError, match="leave it out to use the first image"):
        Preparation(extensions=[])


# ---- several files -----------------------------------------------------------------------------------


@pytest.fixture
def bands(tmp_path: Path) -> Path:
    """A table with a file per band, under names as they come; one is missing, one of another size."""
    lines = ["id,g file,r,z,ra"]
    for index in range(4):
        for offset, band in enumerate("grz"):
            size = (9, 12) if (index, band) != (3, "z") else (4, 4)
            data = as_fits(fits.PrimaryHDU(np.full(size, 10 * index + offset, np.float32)))
            if (index, band) != (2, "r"):
                (tmp_path / f"Feld {index}").mkdir(exist_ok=True)
                (tmp_path / f"Feld {index}" / f"é {band}.fits").write_bytes(data)
        lines.append(f"s{index}," + ",".join(f"Feld {index}/é {band}.fits" for band in "grz") + f",{index}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "t.csv"


def test_several_files_are_the_bands_of_one_image(bands: Path) -> None:
    subjects = SubjectSet.open(bands, image_column="g file, r,z")
    assert subjects.metadata.column_names == ["ra"]
    assert [path.name for path in subjects.sources(1)] == ["é g.fits", "é r.fits", "é z.fits"]
    np.testing.assert_array_equal(assemble(subjects.sources(1))[0, 0], [10, 11, 12])
    assert native_size(subjects) == 9
    loaded = load(subjects, Preparation(size=4, stretch="linear", black=0, scale=100))
    assert loaded.images.shape == (2, 3, 4, 4)
    reasons = {bad.subject_id: bad.reason for bad in loaded.unreadable}
    assert reasons == {
        "s2": "file 2 of 3: file not found: é r.fits",
        "s3": "its parts have different sizes in pixels: 12 × 9, 4 × 4",
    }


def test_several_files_pass_through_a_campaigns_folder_and_shards(bands: Path, tmp_path: Path) -> None:
    subjects = SubjectSet.open(bands, image_column="g file,r,z")
    subjects.save(tmp_path)
    again = SubjectSet.load(tmp_path)
    assert again == subjects
    assert again.select([1]).sources(0) == subjects.sources(1)
    both = SubjectSet.concatenate([subjects.select([1]), SubjectSet.from_files(["x"], [tmp_path / "x.png"])])
    assert [len(both.sources(row)) for row in (0, 1)] == [3, 1]
    done = pack(subjects, tmp_path / "shards", "tar")
    assert dict(done.missing).keys() == {"s2", "s3"}
    packed = load(SubjectSet.open(tmp_path / "shards"), Preparation(size=4))
    np.testing.assert_array_equal(packed.images, load(subjects, Preparation(size=4)).images)


# ---- shown by the site -------------------------------------------------------------------------------


def shown(data: Any, **settings: Any) -> np.ndarray:
    found = picture(data, Preparation(**settings))
    assert found.media_type == "image/png"
    return np.asarray(Image.open(io.BytesIO(found.data)))


def test_what_browsers_cannot_show_is_rendered() -> None:
    ramp = np.linspace(0, 4000, 100 * 100).reshape(100, 100)
    for data in (as_tiff(ramp.astype(np.uint16)), deep_png(np.repeat(ramp.astype(np.uint16)[..., None], 3, 2), 2)):
        image = shown(data)
        assert image.min() == 0
        assert image.max() == 255  # stretched: 4,000 of 65,535 would be nearly black
        assert image[0, 0].max() < image[-1, -1].min()  # not turned over
    upside = shown(as_fits(fits.PrimaryHDU(ramp.astype(np.float32))))
    assert upside[0, 0] > upside[-1, -1]
    eight = io.BytesIO()
    Image.fromarray(RGB).save(eight, "PNG")
    assert picture(eight.getvalue(), Preparation()).data == eight.getvalue()


def test_bands_of_several_files_and_extensions_are_shown_in_colour() -> None:
    files = [as_fits(fits.PrimaryHDU(RNG.normal(offset, 1, (20, 20)).astype(np.float32))) for offset in range(3)]
    assert shown(files).shape == (20, 20, 3)
    assert shown(several(), extensions=("G", "R", "Z")).shape == (9, 9, 3)
