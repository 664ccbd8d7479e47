"""Packing: a set of subjects into shards. Killed anywhere, the same call goes on where it stopped."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from astropy.io import fits

from greenpea import shards
from greenpea.errors import GreenpeaError
from greenpea.files import replacing, saving
from greenpea.formats import Unreadable, read_bytes, usual_ending
from greenpea.images import assemble
from greenpea.shards import Location, Manifest
from greenpea.subjects import SubjectSet

SIZE = 10_000  # subjects in a shard


@dataclass(frozen=True)
class Packed:
    """What `pack` did."""

    out: Path
    subjects: int
    shards: int
    kept: int  # shards that an earlier call had finished
    bytes: int
    missing: tuple[tuple[str, str], ...]  # subjects without an image, and why: they stay, and are listed as unreadable


def pack(
    subjects: SubjectSet,
    out: str | Path,
    kind: Literal["tar", "parquet"] = "tar",
    size: int = SIZE,
    report: Callable[[str, float, str], None] | None = None,
) -> Packed:
    """Write the images of ``subjects``, as their files are, into shards of ``size`` subjects in the folder ``out``.

    Nothing is decoded but images of several files, which become one: what is broken stays so, and is listed when it is
    loaded. Metadata go into the shards and their index. A shard that is finished is not written again. The same
    subjects give the same bytes. Memory is that of a row group. Raises GreenpeaError where ``out`` holds other things,
    or cannot be written to.
    """
    out, manifest = Path(out), Manifest(kind, size, len(subjects))
    kept = 0
    with saving(out):
        _begin(out, manifest)
        for number in range(manifest.count):
            rows = np.arange(number * size, min((number + 1) * size, len(subjects)))
            if report:
                report("packing", rows[0] / len(subjects), f"{rows[0]:,} of {len(subjects):,}")
            if _is_done(out, number, subjects.subject_ids[rows], kind):
                kept += 1
            else:
                _write(subjects, rows, out, number, kind)
    written = [shards.place_of(out, number, kind) for number in range(manifest.count)]
    return Packed(
        out, len(subjects), manifest.count, kept, sum(one.stat().st_size for one in written), _missing(out, manifest)
    )


def _begin(out: Path, manifest: Manifest) -> None:
    if (out / shards.MANIFEST).is_file():
        found = Manifest.load(out)
        if found != manifest:
            raise GreenpeaError(
                f"{out} holds {found.subjects:,} subjects in {found.format} shards of {found.size:,}, and now it is "
                f"{manifest.subjects:,} in {manifest.format} shards of {manifest.size:,}: choose another folder"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise GreenpeaError(f"{out} is not empty: choose a new folder for the shards")
    out.mkdir(parents=True, exist_ok=True)
    manifest.save(out)


def _is_done(out: Path, number: int, subject_ids: np.ndarray, kind: str) -> bool:
    index = shards.index_of(out, number)
    if not index.is_file():
        return False
    done = pq.read_table(index)
    if done["subject_id"].to_pylist() != list(subject_ids):
        raise GreenpeaError(f"{out}: shard {number} holds other subjects than these: choose another folder")
    return _is_whole(shards.place_of(out, number, kind), done)


def _is_whole(shard: Path, index: pa.Table) -> bool:
    """Whether a shard is there and as long as its index says; one that was cut short or lost is packed again."""
    long = 0
    if "image_offset" in index.column_names:
        long = pc.max(pc.add(index["image_offset"], index["image_length"])).as_py()
    elif "image_table_size" in index.column_names:
        long = pc.max(index["image_table_size"]).as_py()
    return shard.is_file() and shard.stat().st_size >= long


def _write(subjects: SubjectSet, rows: np.ndarray, out: Path, number: int, kind: str) -> None:
    some = subjects.select(rows)
    shard = shards.place_of(out, number, kind)
    where: list[Location | None] = []
    some.fetch()
    about = some.metadata.to_pylist() if some.metadata.num_columns else [{}] * len(some)
    with replacing(shard) as temporary:
        with temporary.open("wb") as file:
            writer = shards.WRITERS[kind](file, shard.name, some.metadata.schema)
            for row, subject_id in enumerate(some.subject_ids):
                data = _image(some, row)
                if isinstance(data, bytes):
                    writer.add(int(rows[row]), str(subject_id), data, about[row])
                where.append(None if isinstance(data, bytes) else {"image": "", "image_problem": data.reason})
            places = iter(writer.close())
        if kind == "parquet":
            shards.keep_footer(temporary, shard)
    found = [next(places) if place is None else place for place in where]
    shards.write_index(out, number, some.subject_ids, found, some.metadata)


def _image(subjects: SubjectSet, row: int) -> bytes | Unreadable:
    try:
        sources = subjects.sources(row)
        if len(sources) > 1:
            return _as_one(sources)
        return read_bytes(sources[0]) or Unreadable("no image is named")
    except Unreadable as error:
        return error
    except GreenpeaError as error:
        return Unreadable(str(error))


def _as_one(sources: tuple[Path | bytes, ...]) -> bytes:
    """Return several files as one: a FITS cube where all are FITS, else NPY; the numbers stay as they are."""
    contents = [read_bytes(source) for source in sources]
    array, file = assemble(contents), io.BytesIO()
    if all(usual_ending(data).startswith(".fits") for data in contents):
        fits.PrimaryHDU(np.ascontiguousarray(np.moveaxis(array, 2, 0))).writeto(file)
    else:
        np.save(file, array)
    return file.getvalue()


def _missing(out: Path, manifest: Manifest) -> tuple[tuple[str, str], ...]:
    missing: list[tuple[str, str]] = []
    for number in range(manifest.count):
        index = pq.ParquetFile(shards.index_of(out, number))
        if "image_problem" in index.schema_arrow.names:
            rows = index.read(columns=["subject_id", "image_problem"]).to_pylist()
            missing += [(row["subject_id"], row["image_problem"]) for row in rows if row["image_problem"]]
    return tuple(missing)
