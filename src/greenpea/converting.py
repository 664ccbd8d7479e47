"""A catalogue from Parquet to FITS, VOTable, ECSV or CSV: the same numbers, units and meanings, block by block.

astropy makes each file's head, from a table without rows; the rows are then written a block at a time, so that memory
does not grow with the catalogue. What a format cannot say is said otherwise:

- FITS and VOTable have no missing text: it becomes empty. ECSV and CSV cannot tell the two apart either.
- FITS knows ASCII only: other letters are written as UTF-8, which is what astropy does and reads.
- Lists, dates and the like, from people's own columns, become text.
- A missing whole number is the smallest of its kind, and named as such (``TNULL``, ``null``). Truth values of which
  some are missing become the numbers 0 and 1.
"""

from __future__ import annotations

import base64
import json
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from astropy.io import fits, votable
from astropy.io.votable.tree import Info
from astropy.table import Column as AstropyColumn
from astropy.table import Table

from greenpea import selections
from greenpea.errors import GreenpeaError
from greenpea.files import replacing

ROWS = 16_384  # in a block
ABOUT = "greenpea."  # what the keys of a catalogue's own metadata begin with
VOPARQUET = "IVOA.VOTable-Parquet"  # https://www.ivoa.net/documents/Notes/VOParquet: a VOTable's head inside Parquet

Report = Callable[[int, int], None]  # rows done, of how many


def silent(done: int, rows: int) -> None:
    """Report nothing."""


# ---- what is written ---------------------------------------------------------------------------------


class Column(NamedTuple):
    """One column: how its values are stored, and what they mean."""

    name: str
    kind: str  # "float", "integer", "boolean" or "text"
    dtype: str  # of numpy, big-endian: a text's has its width in bytes
    ascii: bool
    unit: str  # "" where there is none
    description: str
    ucd: str

    @property
    def null(self) -> int | None:
        """What stands for a missing whole number."""
        return int(np.iinfo(self.dtype).min) if self.kind == "integer" else None


@dataclass(frozen=True)
class Catalogue:
    """A finished catalogue: one Parquet file, or a folder of parts that are read in the order of their names."""

    parts: tuple[Path, ...]

    @classmethod
    def open(cls, place: str | Path) -> Catalogue:
        """Find a catalogue's files. Raises GreenpeaError where there is none."""
        place = Path(place)
        parts = tuple(sorted(place.glob("*.parquet"))) if place.is_dir() else (place,)
        if not parts or not parts[0].is_file():
            raise GreenpeaError(f"{place} is no catalogue: make one with 'greenpea predict DIR --out {place.name}'")
        found = cls(parts)
        if "subject_id" not in found.schema.names:
            raise GreenpeaError(f"{parts[0]} is no catalogue: it has no column subject_id")
        return found

    @cached_property
    def schema(self) -> pa.Schema:
        try:
            return pq.read_schema(self.parts[0])
        except (pa.ArrowInvalid, OSError) as error:
            raise GreenpeaError(f"{self.parts[0]} is not a Parquet file: {error}") from error

    @cached_property
    def rows(self) -> int:
        return sum(pq.read_metadata(part).num_rows for part in self.parts)

    @property
    def about(self) -> dict[str, str]:
        """What the catalogue says of itself: version, model, tree, settings, citation, selections."""
        return about(self.schema)

    def blocks(self, names: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows in order, `ROWS` at most at a time."""
        for part in self.parts:
            with pq.ParquetFile(part, pre_buffer=False) as file:  # which would hold all of it
                for batch in file.iter_batches(ROWS, columns=names):
                    yield pa.Table.from_batches([batch])

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns as they will be written; texts and truth values are read through once for it."""
        found = {field.name: Seen() for field in self.schema if _kind(field.type)[0] in ("text", "boolean")}
        for block in self.blocks(list(found)) if found else ():
            for name, seen in found.items():
                seen.look_at(block[name])
        return tuple(_column(field, found.get(field.name, Seen())) for field in self.schema)


@dataclass
class Seen:
    """What has to be known of a column of texts or truth values before it is written."""

    width: int = 1  # bytes in UTF-8
    ascii: bool = True
    missing: bool = False

    def look_at(self, values: pa.ChunkedArray) -> None:
        self.missing |= values.null_count > 0
        if not pa.types.is_boolean(values.type):
            text = _text(values)
            self.width = max(self.width, pc.max(pc.binary_length(text)).as_py() or 0)
            self.ascii &= pc.all(pc.string_is_ascii(text)).as_py() is not False


def about(schema: pa.Schema) -> dict[str, str]:
    """Return a catalogue's own metadata, without what the keys begin with."""
    known = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    return {key.removeprefix(ABOUT): value for key, value in known.items() if key.startswith(ABOUT)}


def _column(field: pa.Field, seen: Seen) -> Column:
    known = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    kind, dtype = _kind(field.type)
    if kind == "boolean" and seen.missing:  # astropy would read what is missing as False
        kind, dtype = "integer", ">i2"
    unit = known.get("unit", "")
    return Column(
        field.name,
        kind,
        f"S{seen.width}" if kind == "text" else dtype,
        seen.ascii,
        "" if unit == "1" else unit,
        known.get("description", ""),
        known.get("ucd", ""),
    )


def _kind(kind: pa.DataType) -> tuple[str, str]:
    """Return what becomes of an Arrow type: (kind, numpy's dtype)."""
    if pa.types.is_boolean(kind):
        return "boolean", "S1"
    if pa.types.is_floating(kind):
        return "float", ">f8" if kind.bit_width == 64 else ">f4"
    if pa.types.is_integer(kind) and kind != pa.uint64():  # more than 63 bits fit in none of the formats
        bits = kind.bit_width + (1 if pa.types.is_unsigned_integer(kind) else 0)
        return "integer", ">i2" if bits <= 16 else ">i4" if bits <= 32 else ">i8"
    return "text", ""


def _text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return any values as text; missing ones as empty."""
    if pa.types.is_nested(values.type):
        said = [None if value is None else json.dumps(value, default=str) for value in values.to_pylist()]
        values = pa.chunked_array([pa.array(said, pa.string())])
    elif pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        said = [None if value is None else base64.b64encode(value).decode() for value in values.to_pylist()]
        values = pa.chunked_array([pa.array(said, pa.string())])
    return pc.fill_null(pc.cast(values, pa.string()), "")


def records(block: pa.Table, columns: tuple[Column, ...], encoding: str) -> np.ndarray:
    """Return rows as one structured array of big-endian values: what FITS and VOTable hold.

    ``encoding`` is that of texts which are not ASCII.
    """
    kinds = [(f"f{n}", _stored(column, encoding)) for n, column in enumerate(columns)]
    out = np.zeros(len(block), np.dtype(kinds))
    for number, column in enumerate(columns):
        values = block[column.name].combine_chunks()
        match column.kind:
            case "float":
                out[f"f{number}"] = pc.fill_null(pc.cast(values, pa.float64()), np.nan).to_numpy(zero_copy_only=False)
            case "integer":
                filled = pc.fill_null(pc.cast(values, pa.int64()), column.null)
                out[f"f{number}"] = filled.to_numpy(zero_copy_only=False)
            case "boolean":
                out[f"f{number}"] = np.where(values.to_numpy(zero_copy_only=False), b"T", b"F")
            case _:
                said = _text(block[column.name]).to_pylist()
                out[f"f{number}"] = [text.encode("ascii" if column.ascii else encoding) for text in said]
    return out


def _stored(column: Column, encoding: str) -> str:
    # UTF-16 has at most as many units as UTF-8 has bytes.
    wide = column.kind == "text" and not column.ascii and encoding.startswith("utf-16")
    return f"S{2 * int(column.dtype[1:])}" if wide else column.dtype


def _empty(columns: tuple[Column, ...]) -> Table:
    """Return astropy's table without rows: each format's head is made of it."""
    table = Table()
    for column in columns:
        dtype = {"boolean": "?", "text": column.dtype.replace("S", "U")}.get(
            column.kind, column.dtype.replace(">", "=")
        )
        table[column.name] = AstropyColumn([], dtype=dtype, description=column.description or None)
    return table


# ---- FITS --------------------------------------------------------------------------------------------


def _write_fits(source: Catalogue, path: Path, report: Report) -> None:
    columns = source.columns
    fits.PrimaryHDU(header=_fits_about(source)).writeto(path)
    rows = fits.StreamingHDU(str(path), _fits_header(source))  # a Path it would begin anew
    done = 0
    if not source.rows:
        rows.close()
    for block in source.blocks():
        values = records(block, columns, "utf-8")
        rows.write(values.view(np.uint8))
        done += len(block)
        report(done, source.rows)
    rows.close()


def _fits_about(source: Catalogue) -> fits.Header:
    """Return the primary header: what the catalogue says of itself, its longer texts as JSON in long strings."""
    header = fits.Header()
    for key, value in source.about.items():
        header[key.upper()[:8]] = _ascii(value)
    remarks = ["Columns: TTYPEn name, TUNITn unit, TCOMMn meaning, TUCDn UCD1+ of the IVOA."]
    chosen = selections.from_json(source.about.get("selections", "[]"))
    remarks += [f"Recommended for {one.words}: {one.sql}" for one in chosen]
    for line in (line for remark in remarks for line in textwrap.wrap(_ascii(remark), 72)):
        header["COMMENT"] = line
    return header


ASCII = str.maketrans({"“": '"', "”": '"', "’": "'", "–": "-", "−": "-", "…": "...", "×": "x", "²": "^2", "\n": " "})


def _ascii(text: str) -> str:
    """Return text in the letters that FITS knows; others as JSON escapes them."""
    plain = text.translate(ASCII)
    return plain if plain.isascii() else plain.encode("ascii", "backslashreplace").decode()


def _fits_header(source: Catalogue) -> fits.Header:
    buffer, table = BytesIO(), _empty(source.columns)
    table.write(buffer, format="fits")
    buffer.seek(0)
    with fits.open(buffer) as file:
        header = file[1].header.copy()
    header["NAXIS2"] = source.rows
    header["EXTNAME"] = "CATALOGUE"
    for number, column in enumerate(source.columns, start=1):
        told = {"TUNIT": column.unit, "TCOMM": _ascii(column.description), "TUCD": column.ucd, "TNULL": column.null}
        for key, value in told.items():
            if value not in ("", None):
                header.set(f"{key}{number}", value, after=f"TFORM{number}")
    return header


# ---- VOTable -----------------------------------------------------------------------------------------


def votable_head(columns: tuple[Column, ...], known: dict[str, str]) -> str:
    """Return a VOTable without rows: fields with unit, UCD and meaning, and what the catalogue says of itself."""
    file = votable.from_table(_empty(columns))
    (resource,) = file.resources
    (table,) = resource.tables
    table.description = "A catalogue of the votes that volunteers are expected to give"
    for field, column in zip(table.fields, columns, strict=True):
        field.ucd = column.ucd or None
        field.arraysize = str(_length(column)) if column.kind == "text" else None
        field.datatype = _votable_type(column)
        if column.null is not None:
            field.values.null = column.null
    resource.infos.extend(Info(name=key, value=value) for key, value in known.items())
    buffer = BytesIO()
    file.to_xml(buffer, tabledata_format="binary2")
    text = buffer.getvalue().decode()
    for column in columns:  # a unit of our own stands in quotes (VOUnits 1.0, section 2.4), which astropy would escape
        if column.unit:
            text = text.replace(f'name="{column.name}"', f'name="{column.name}" unit="{_vounit(column.unit)}"', 1)
    return text


def _vounit(unit: str) -> str:
    return f"'{unit}'" if unit == "nat" else unit


def _length(column: Column) -> int:
    return int(column.dtype[1:])


def _votable_type(column: Column) -> str:
    if column.kind == "text":
        return "char" if column.ascii else "unicodeChar"
    return {"S1": "boolean", ">i2": "short", ">i4": "int", ">i8": "long", ">f4": "float", ">f8": "double"}[column.dtype]


def voparquet(schema: pa.Schema) -> dict[str, str]:
    """Return metadata by which VOTable readers understand a Parquet catalogue (VOParquet 1.0)."""
    columns = tuple(_column(field, Seen()) for field in schema)
    return {f"{VOPARQUET}.version": "1.0", f"{VOPARQUET}.content": votable_head(columns, about(schema))}


def _write_votable(source: Catalogue, path: Path, report: Report) -> None:
    """Write BINARY2: per row one bit a column that says whether it is missing, then the values, in base 64."""
    columns = source.columns
    before, end, after = votable_head(columns, source.about).partition("</TABLE>")
    flags, left, done = (len(columns) + 7) // 8, b"", 0
    with path.open("wb") as file:
        file.write(f'{before.rstrip()}\n<DATA><BINARY2><STREAM encoding="base64">\n'.encode())
        for block in source.blocks():
            values = records(block, columns, "utf-16-be")
            whole = np.zeros((len(block), flags + values.dtype.itemsize), np.uint8)
            whole[:, :flags] = np.packbits(_missing(block, columns), axis=1)
            whole[:, flags:] = values.view(np.uint8).reshape(len(block), -1)
            data = left + whole.tobytes()
            cut = len(data) - len(data) % 57  # 76 characters a line
            file.write(base64.encodebytes(data[:cut]))
            left = data[cut:]
            done += len(block)
            report(done, source.rows)
        file.write(base64.encodebytes(left))
        file.write(f"</STREAM></BINARY2></DATA>\n{end}{after}".encode())


def _missing(block: pa.Table, columns: tuple[Column, ...]) -> np.ndarray:
    """Return, per row and column, whether a value is missing."""
    masks = [block[column.name].combine_chunks().is_null().to_numpy(zero_copy_only=False) for column in columns]
    return np.stack(masks, axis=1) if masks else np.zeros((len(block), 0), bool)


# ---- CSV ---------------------------------------------------------------------------------------------


def _write_ecsv(source: Catalogue, path: Path, report: Report) -> None:
    """Write ECSV 1.0: a CSV below a head of comments, which astropy and TOPCAT read."""
    table = _empty(source.columns)
    for column in source.columns:
        if column.unit:
            table[column.name].unit = _unit(column.unit)
        if column.ucd:
            table[column.name].meta["ucd"] = column.ucd
    table.meta.update(source.about)
    head = StringIO()
    table.write(head, format="ascii.ecsv", delimiter=",")
    with path.open("wb") as file:
        file.write(head.getvalue().encode())
        _write_rows(source, file, report)


def _unit(unit: str) -> Any:
    from astropy import units

    return units.Unit(unit, parse_strict="silent")


def _write_csv(source: Catalogue, path: Path, report: Report) -> None:
    with path.open("wb") as file:
        pa_csv.write_csv(pa.table({column.name: [] for column in source.columns}), file)
        _write_rows(source, file, report)


def _write_rows(source: Catalogue, file: Any, report: Report) -> None:
    options, done = pa_csv.WriteOptions(include_header=False), 0
    for block in source.blocks():
        pa_csv.write_csv(pa.table([_said(block[c.name], c) for c in source.columns], block.column_names), file, options)
        done += len(block)
        report(done, source.rows)


def _said(values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    if column.kind == "boolean":
        return pc.if_else(values, "True", "False")
    if column.kind == "integer":
        return pc.cast(values, pa.int64())
    return _text(values) if column.kind == "text" else values


def columns_file(path: Path) -> Path:
    """Return where the meanings of a CSV's columns are written: beside it."""
    return path.with_suffix(".columns.csv")


def _columns_table(columns: tuple[Column, ...]) -> pa.Table:
    return pa.table({key: [getattr(one, key) for one in columns] for key in ("name", "unit", "ucd", "description")})


# ---- all of them -------------------------------------------------------------------------------------

FORMATS: dict[str, Callable[[Catalogue, Path, Report], None]] = {
    ".fits": _write_fits,
    ".vot": _write_votable,
    ".ecsv": _write_ecsv,
    ".csv": _write_csv,
}


def check_name(out: str | Path) -> None:
    """Raise GreenpeaError unless the file's name ends as one of the formats does."""
    if Path(out).suffix.lower() not in (".parquet", *FORMATS):
        raise GreenpeaError(f"{out}: a catalogue is written as .parquet, {', '.join(FORMATS)}: give it such a name")


def convert(catalogue: str | Path, out: str | Path, report: Report = silent) -> Path:
    """Write a finished catalogue in the format that the name of ``out`` says, whole or not at all; return ``out``.

    A CSV cannot hold what its columns mean: they are beside it, in ``NAME.columns.csv``. Memory does not grow with
    the catalogue. Raises GreenpeaError where ``catalogue`` is none, or the format is not known.
    """
    out, source = Path(out), Catalogue.open(catalogue)
    write = FORMATS.get(out.suffix.lower())
    if write is None:
        raise GreenpeaError(f"{out}: a catalogue is converted to {', '.join(FORMATS)}: give it such a name")
    with replacing(out) as temporary:
        write(source, temporary, report)
    if out.suffix.lower() == ".csv":
        with replacing(columns_file(out)) as temporary:
            pa_csv.write_csv(_columns_table(source.columns), temporary)
    return out
