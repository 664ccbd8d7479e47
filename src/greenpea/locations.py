"""Where images lie, and how their bytes are had: files, web addresses, rows of Parquet tables, spans of tar shards.

A set of subjects says where each image is in a table of `LOCATIONS`; `Holders` reads what stands there, one row group
or one span at a time, so that neither a table nor a shard is ever held whole.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Int

from greenpea.errors import GreenpeaError
from greenpea.formats import Unreadable
from greenpea.remote import ADDRESS, Cache, Fetching, is_address
from greenpea.tables import column_as_strings

LOCATIONS = pa.schema(
    [
        ("image", pa.string()),  # the file or web address, or what holds the bytes (table, tar); "" where none is named
        ("image_row", pa.int64()),  # in a table: the row, from 0
        ("image_column", pa.string()),  # in a table: the column of bytes, such as image.bytes
        ("image_table_size", pa.int64()),  # the table's size at import, bytes: tells that it was rewritten since
        ("image_offset", pa.int64()),  # in a tar: where the bytes begin
        ("image_length", pa.int64()),  # in a tar: how many they are
        ("image_crc32", pa.int64()),  # in a tar: their checksum, where it is known
        ("image_size", pa.int64()),  # at a web address: bytes, where they are known
        ("image_sha256", pa.string()),  # at a web address: the checksum, where it is known
        ("image_more", pa.list_(pa.string())),  # further files, whose channels follow those of the first
        ("image_problem", pa.string()),  # why there is no image, where that was known when it was packed
    ]
)
"""The columns that say where an image is. All but the first may be missing where no subject needs them."""

FOOTERS = "index"  # the folder beside a Parquet shard in which a copy of its footer is kept


def of_files(images: Sequence[str] | pa.Array) -> pa.Table:
    """Return the locations of images that are files; "" is none."""
    return pa.table({"image": pa.array(images, pa.string()) if not isinstance(images, pa.Array) else images})


def concatenate(tables: Sequence[pa.Table]) -> pa.Table:
    """Return several sets' locations as one; a column that some of them lack is null there."""
    return _ordered(pa.concat_tables(tables, promote_options="default"))


def _ordered(table: pa.Table) -> pa.Table:
    return table.select([name for name in LOCATIONS.names if name in table.column_names])


def absolute(paths: pa.Array | pa.ChunkedArray, base: str | Path) -> pa.Array:
    """Return paths from ``base`` as absolute ones; "" stays "", and what is absolute stays as it is."""
    # Arrow, not a loop over Paths: a set may hold millions.
    if isinstance(paths, pa.ChunkedArray):
        paths = paths.combine_chunks()
    paths = pc.fill_null(pc.cast(paths, pa.string()), "")
    root = f"{str(Path(base).resolve()).rstrip(os.sep)}{os.sep}"
    kept = pc.or_(pc.equal(paths, ""), pc.match_substring_regex(paths, rf"^(/|{ADDRESS.pattern})"))
    if os.sep != "/":
        kept = pc.or_(kept, pc.match_substring_regex(paths, r"^[A-Za-z]:"))
    plain = pc.replace_substring_regex(paths, r"^(\./)+", "")
    return pc.if_else(kept, paths, pc.binary_join_element_wise(root, plain, ""))


def relative(paths: pa.Array | pa.ChunkedArray, base: str | Path) -> pa.Array:
    """Return absolute paths inside ``base`` as seen from it; others as they are."""
    if isinstance(paths, pa.ChunkedArray):
        paths = paths.combine_chunks()
    root = f"{str(Path(base).resolve()).rstrip(os.sep)}{os.sep}"
    inside = pc.starts_with(paths, root)
    return pc.if_else(inside, pc.utf8_slice_codeunits(paths, len(root)), paths)


def addresses(locations: pa.Table) -> list[tuple[str, int | None, str | None]]:
    """Return what lies at web addresses: address, size and SHA-256 where they are known."""
    found = locations.filter(pc.match_substring_regex(locations["image"], f"^{ADDRESS.pattern}"))
    wanted = [(row["image"], row.get("image_size"), row.get("image_sha256")) for row in found.to_pylist()]
    if "image_more" in locations.column_names:
        more = pc.list_flatten(locations["image_more"]).to_pylist()
        wanted += [(image, None, None) for image in more if is_address(image)]
    return wanted


def reading_order(locations: pa.Table) -> Int[np.ndarray, " subject"]:
    """Return the order that reads every row group of every table, and every tar from front to back, once."""
    places = [locations[name] for name in ("image_row", "image_offset") if name in locations.column_names]
    if all(column.null_count == len(column) for column in places):
        return np.arange(locations.num_rows)
    within = np.maximum.reduce([pc.fill_null(column, -1).to_numpy() for column in places])
    holders = locations["image"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return np.lexsort((within, holders))


# ---- reading -----------------------------------------------------------------------------------------


class Holders:
    """The tables and tars that hold images: opened when they are asked for. May be used from several threads.

    Lazily, so that a table larger than memory can be streamed: in `reading_order` every row group is read once, and
    the latest few are kept. A table written as one row group is held whole while it is read.
    """

    GROUPS_KEPT = 3  # workers that read in order are in neighbouring row groups
    TARS_KEPT = 8  # open files

    def __init__(self, fetching: Fetching | None = None) -> None:
        self.cache = Cache(fetching or Fetching())
        self._lock = threading.Lock()
        self._tables: dict[str, tuple[pq.ParquetFile, Int[np.ndarray, " group"]]] = {}
        self._groups: dict[tuple[str, str, int], pa.ChunkedArray] = {}
        self._tars: dict[str, BinaryIO] = {}

    def __reduce__(self) -> tuple[Callable[[Fetching], Holders], tuple[Fetching]]:
        # Open files and locks do not travel to another process: there they are opened again, once for all that comes.
        return _of_this_process, (self.cache.options,)

    def read(self, place: dict[str, Any]) -> Path | bytes:
        """Return a file's path, or the bytes, of one row of `LOCATIONS`; b"" where no image is named.

        What lies at a web address is downloaded into the cache. Raises `Unreadable` where it cannot be, where a shard
        is cut short or an image in it is damaged, GreenpeaError where a table
        is gone or was rewritten.
        """
        if place.get("image_problem"):
            raise Unreadable(place["image_problem"])
        if place.get("image_row") is not None:
            return self._from_table(
                place["image"], place["image_column"], place["image_row"], place["image_table_size"]
            )
        if place.get("image_offset") is not None:
            return self._from_tar(
                place["image"], place["image_offset"], place["image_length"], place.get("image_crc32")
            )
        if is_address(place["image"]):
            return self.cache.get(place["image"], place.get("image_size"), place.get("image_sha256"))
        return Path(place["image"]) if place["image"] else b""

    # ---- tars --------------------------------------------------------------------------------------

    def _from_tar(self, tar: str, offset: int, length: int, crc32: int | None) -> bytes:
        name = Path(tar).name
        with self._lock:
            try:
                file = self._open_tar(tar)
                file.seek(offset)
                data = file.read(length)
            except FileNotFoundError:
                raise Unreadable(f"the shard {name} is not there") from None
            except OSError as error:
                raise Unreadable(f"the shard {name} cannot be read: {error.strerror or error}") from error
        if len(data) < length:
            raise Unreadable(f"the shard {name} is cut short: fetch or pack it again")
        if crc32 is not None and zlib.crc32(data) != crc32:
            raise Unreadable(f"the shard {name} is damaged here, or another than was indexed: fetch or pack it again")
        return data

    def _open_tar(self, tar: str) -> BinaryIO:
        if tar not in self._tars:
            self._tars[tar] = Path(tar).open("rb")  # noqa: SIM115  closed in __del__, or when others come
        file = self._tars[tar] = self._tars.pop(tar)  # the latest stands last
        if len(self._tars) > self.TARS_KEPT:
            self._tars.pop(next(iter(self._tars))).close()
        return file

    def __del__(self) -> None:
        for file in self._tars.values():
            file.close()

    # ---- tables ------------------------------------------------------------------------------------

    def _from_table(self, table: str, column: str, row: int, size: int) -> bytes:
        with self._lock:
            try:
                file, ends = self._open_table(table, size)
                group = int(np.searchsorted(ends, row, side="right"))
                values = self._group(file, table, column, group)
            except (pa.ArrowException, OSError) as error:
                if Path(table).is_file() and Path(table).stat().st_size < size:
                    raise Unreadable(f"the shard {Path(table).name} is cut short: fetch or pack it again") from error
                raise GreenpeaError(f"the table {table} cannot be read: {error}") from error
        value = values[row - (int(ends[group - 1]) if group else 0)].as_py()
        return b"" if value is None else bytes(value)

    def _open_table(self, table: str, size: int) -> tuple[pq.ParquetFile, Int[np.ndarray, " group"]]:
        if table not in self._tables:
            if not Path(table).is_file():
                raise GreenpeaError(f"the table that embeds the image is not found: {table}")
            footer, has = footer_of(table), Path(table).stat().st_size
            if has < size and footer.is_file():  # what was kept of the shard's end tells where the images are
                file = pq.ParquetFile(table, metadata=pq.read_metadata(footer))
            elif has != size:
                raise GreenpeaError(f"the table {table} was rewritten since the import: import the subjects again")
            else:
                file = pq.ParquetFile(table)
            groups = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            self._tables[table] = file, np.cumsum(groups)
        return self._tables[table]

    def _group(self, file: pq.ParquetFile, table: str, column: str, group: int) -> pa.ChunkedArray:
        key = table, column, group
        if key not in self._groups:
            if len(self._groups) == self.GROUPS_KEPT:
                del self._groups[next(iter(self._groups))]
            self._groups[key] = bytes_of(file.read_row_group(group, columns=[column]))
        return self._groups[key]


@lru_cache(maxsize=4)
def _of_this_process(options: Fetching) -> Holders:
    return Holders(options)


def footer_of(shard: str | Path) -> Path:
    """Return where the copy of a Parquet shard's footer is kept."""
    shard = Path(shard)
    return shard.parent / FOOTERS / f"{shard.stem}.footer"


def bytes_of(table: pa.Table) -> pa.ChunkedArray:
    """Return the bytes in a table's first column: a binary column, or a struct of ``bytes`` and ``path``."""
    column = table.column(0)
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def of_table(path: Path, name: str, base: Path) -> tuple[pa.Table, np.ndarray]:
    """Return the locations of images embedded in a Parquet table's column ``name``, a row each.

    Also the paths written beside the bytes ("" where there are none), which count where the bytes are null.
    """
    file = pq.ParquetFile(path)
    kind = file.schema_arrow.field(name).type
    rows = file.metadata.num_rows
    names = np.full(rows, "", dtype=object)
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        names = column_as_strings(pc.struct_field(file.read(columns=[f"{name}.path"]).column(0), "path"))
    column = f"{name}.bytes" if pa.types.is_struct(kind) else name
    missing = _null_rows(file, column)
    images = pc.if_else(pa.array(missing), absolute(pa.array(names, pa.string()), base), str(path.resolve()))
    return pa.table(
        {
            "image": images,
            "image_row": pa.array(np.arange(rows), pa.int64(), mask=missing),
            "image_column": pc.if_else(pa.array(missing), pa.scalar(None, pa.string()), column),
            "image_table_size": pa.array(np.full(rows, path.stat().st_size), pa.int64(), mask=missing),
        }
    ), names


def _null_rows(file: pq.ParquetFile, column: str) -> Bool[np.ndarray, " row"]:
    """Where a column of bytes is null; only row groups whose statistics do not rule it out are read."""
    masks = [np.zeros(0, bool)]
    for index in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(index)
        leaf = next(leaf for i in range(group.num_columns) if (leaf := group.column(i)).path_in_schema == column)
        if leaf.statistics is not None and leaf.statistics.has_null_count and leaf.statistics.null_count == 0:
            masks.append(np.zeros(group.num_rows, bool))
        else:
            masks.append(pc.is_null(bytes_of(file.read_row_group(index, columns=[column]))).to_numpy())
    return np.concatenate(masks)
