"""Tables people bring: CSV (plain or gzipped, any usual encoding), Parquet, FITS and VOTable, with their untidiness."""

from __future__ import annotations

import codecs
import csv as python_csv
import gzip
import io
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast
from xml.parsers.expat import ExpatError

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from greenpea.errors import GreenpeaError, did_you_mean

ID_COLUMNS = (
    "subject_id",
    "id",
    "id_str",
    "subject",
    "objid",
    "dr7objid",
    "iauname",
    "name",
    "galaxy_id",
    "galaxy",
)
ROUNDED = re.compile(r"\d\.\d+[eE]\+\d+")  # a long number that a spreadsheet, or pandas, wrote as a real one
WHOLE_FLOAT = r"^\d+\.0$"
FITS_ENDINGS = (".fits", ".fit", ".fits.gz", ".fit.gz", ".fits.fz")
VOTABLE_ENDINGS = (".vot", ".votable", ".xml", ".vot.gz")
LONGEST_VECTOR = 16  # elements; a longer one is no row of numbers but a spectrum or an image
NOTE = "greenpea.note"  # in a table's metadata: what was left out when it was read


def read_table(path: str | Path, text_columns: Collection[str] = ()) -> pa.Table:
    """Read a CSV (plain or gzipped), Parquet, FITS or VOTable table, chosen by the file's name.

    A byte-order mark, Latin-1 text and unnamed index columns are survived. Columns with one of the usual
    names of identifiers, and ``text_columns``, are read as text: every digit and leading zero is kept.
    Raises GreenpeaError naming the file.
    """
    path = Path(path)
    if not path.is_file():
        raise GreenpeaError(f"there is no file {path}; give a CSV, Parquet, FITS or VOTable table")
    name = path.name.lower()
    try:
        if name.endswith((".parquet", ".pq")):
            return pq.read_table(path)
        if name.endswith((".csv", ".csv.gz", ".txt", ".tsv")):
            return _read_csv(path, "\t" if name.endswith(".tsv") else ",", text_columns)
        if name.endswith((*FITS_ENDINGS, *VOTABLE_ENDINGS)):
            return _read_astronomical(path, "fits" if name.endswith(FITS_ENDINGS) else "votable")
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        raise GreenpeaError(f"{path} cannot be read as a table: {error}") from error
    raise GreenpeaError(
        f"{path}: tables are CSV (.csv, .csv.gz, .tsv), Parquet (.parquet), FITS (.fits) or VOTable (.vot, .xml)"
    )


def column_names(path: str | Path) -> list[str]:
    """Return the names of a table's columns, without its rows where that is possible."""
    path = Path(path)
    name = path.name.lower()
    if path.is_file() and name.endswith((".parquet", ".pq")):
        return list(pq.read_schema(path).names)
    return list(read_table(path).column_names)


def _read_csv(path: Path, delimiter: str, text_columns: Collection[str]) -> pa.Table:
    encoding = _encoding(path)
    header = _header(path, delimiter, encoding)
    if len(header) == 1 and ";" in header[0]:  # as spreadsheets write where the comma stands in numbers
        delimiter = ";"
        header = _header(path, delimiter, encoding)
    if not header:
        raise GreenpeaError(f"{path} is empty")
    table = csv.read_csv(
        path,
        read_options=csv.ReadOptions(block_size=1 << 26, encoding=encoding),
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            strings_can_be_null=True,
            null_values=["", "NA", "NaN", "nan", "null"],
            column_types={name: pa.string() for name in header if name in text_columns or name.lower() in ID_COLUMNS},
        ),
    )
    return _named(table, path)


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb"))


def _encoding(path: Path) -> str:
    """Return the encoding that fits the whole file: UTF-8, or else Latin-1, which fits any."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _opened(path) as file:
        try:
            while block := file.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8"


def _header(path: Path, delimiter: str, encoding: str) -> list[str]:
    with _opened(path) as file, io.TextIOWrapper(file, "utf-8-sig" if encoding == "utf-8" else encoding) as text:
        return next(
            (row for row in python_csv.reader(text, delimiter=delimiter) if any(cell.strip() for cell in row)), []
        )


def _named(table: pa.Table, path: Path) -> pa.Table:
    """Give names to columns without one; refuse two of one name."""
    named = [name or f"column_{index + 1}" for index, name in enumerate(table.column_names)]
    twice = [name for name, count in Counter(named).items() if count > 1]
    if twice:
        raise GreenpeaError(f"{path} has the column {twice[0]!r} more than once: rename one")
    return table.rename_columns(named)


# ---- FITS and VOTable --------------------------------------------------------------------------------


def _read_astronomical(path: Path, kind: str) -> pa.Table:
    """Read the first table of a FITS or VOTable: masked values are null, a short vector is a column per element.

    Columns of longer vectors are left out; the table's `NOTE` says which.
    """
    from astropy.table import Table  # slow to import, and most campaigns do without

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of units and headers that are merely unusual
        try:
            found = Table.read(path, format="votable", table_id=0) if kind == "votable" else _fits_table(path)
        except (ValueError, TypeError, IndexError, KeyError, ExpatError) as error:
            raise GreenpeaError(f"{path} cannot be read as a table: {' '.join(str(error).split())[:200]}") from error
    columns: dict[str, pa.Array] = {}
    left_out: list[str] = []
    for name in found.colnames:
        parts = _flat_columns(name, found[name])
        columns |= parts
        if not parts:
            left_out.append(name)
    note = f"columns of {path.name} that hold more than numbers or words are left out: {', '.join(left_out)}"
    return _named(pa.table(columns), path).replace_schema_metadata({NOTE: note} if left_out else None)


def _fits_table(path: Path) -> Any:
    from astropy.io import fits
    from astropy.table import Table

    with fits.open(path) as units:
        numbers = [number for number, unit in enumerate(units) if isinstance(unit, fits.BinTableHDU | fits.TableHDU)]
    if not numbers:
        raise GreenpeaError(f"{path} holds images and no table: give the folder of images, or a table that lists them")
    return Table.read(path, format="fits", hdu=numbers[0], unit_parse_strict="silent")


def _flat_columns(name: str, column: Any) -> dict[str, pa.Array]:
    """Return one Arrow column, one per element of a short vector, or none."""
    mask = np.ma.getmaskarray(column)
    values = np.ma.getdata(column)
    if values.ndim == 2 and values.shape[1] <= LONGEST_VECTOR:
        parts = range(values.shape[1])
        return {f"{name}_{part + 1}": _arrow(values[:, part], mask[:, part]) for part in parts}
    if values.ndim != 1 or (values.dtype.kind == "O" and not all(isinstance(value, str) for value in values)):
        return {}
    return {name: _arrow(values, mask)} if values.dtype.kind in "biufSUO" else {}


def _arrow(values: np.ndarray, mask: np.ndarray) -> pa.Array:
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind in "UO":
        texts = pc.utf8_rtrim_whitespace(pa.array(values.astype(object), pa.string(), mask=mask))
        return pc.if_else(pc.equal(texts, ""), None, texts)
    return pa.array(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="))), mask=mask)


def find_column(names: Sequence[str], wanted: str | None, usual: Sequence[str], what: str, where: str) -> str:
    """Return the column ``wanted``, or else the first of the ``usual`` names that is there."""
    if wanted is not None:
        if wanted not in names:
            raise GreenpeaError(f"{where} has no column {wanted!r}{did_you_mean(wanted, names)}")
        return wanted
    lower = {name.lower(): name for name in reversed(names)}
    for name in usual:
        if name in lower:
            return lower[name]
    listed = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    raise GreenpeaError(f"{where} has no {what} column among {', '.join(usual)}: name it. Its columns: {listed}")


def find_id_column(names: Sequence[str], wanted: str | None, where: str) -> str:
    """Return the column that identifies subjects: ``wanted``, or the first usual name (`ID_COLUMNS`)."""
    return find_column(names, wanted, ID_COLUMNS, "identifier", where)


def column_as_strings(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column as an object array of str; a missing value becomes the empty string.

    Whole numbers that went through floating point on their way ("123.0") lose their ".0".
    """
    if pa.types.is_floating(column.type):
        column = pc.cast(column, pa.int64(), safe=False) if _all_whole(column) else column
    texts = pc.utf8_trim_whitespace(pc.fill_null(pc.cast(column, pa.string()), ""))
    if pc.all(pc.or_(pc.equal(texts, ""), pc.match_substring_regex(texts, WHOLE_FLOAT))).as_py():
        texts = pc.replace_substring_regex(texts, r"\.0$", "")
    return np.asarray(texts.to_numpy(zero_copy_only=False) if len(texts) else [], dtype=object)


def _all_whole(column: pa.ChunkedArray) -> bool:
    values = column.to_numpy()
    return bool(np.all(np.isfinite(values)) and np.all(values == np.floor(values)) and np.all(np.abs(values) < 2**53))


def row_number(where: str, row: int) -> int:
    """Return the number that a person finds a row by, from its index: a text file's head is the first row."""
    return row + (1 if where.lower().endswith((*FITS_ENDINGS, *VOTABLE_ENDINGS, ".parquet")) else 2)


def refuse_duplicates(subject_ids: np.ndarray, column: str, where: str) -> None:
    """Raise GreenpeaError naming the first row without an identifier, or with one seen before."""
    texts = pa.array(subject_ids, pa.string())
    if pc.count_distinct(texts).as_py() == len(texts) and not pc.any(pc.equal(texts, "")).as_py():
        return
    seen: dict[str, int] = {}
    for row, subject in enumerate(subject_ids):
        here = row_number(where, row)
        if not subject:
            raise GreenpeaError(f"{where}, row {here}: column {column!r} is blank; give the subject an id")
        if subject in seen:
            if ROUNDED.fullmatch(subject):
                raise GreenpeaError(
                    f"{where}, rows {seen[subject]} and {here}: the id {subject!r} was rounded, so that several "
                    f"subjects share it: write column {column!r} as whole numbers or as text"
                )
            raise GreenpeaError(
                f"{where}, row {here}: the id {subject!r} stood in row {seen[subject]} already; "
                f"every subject has one row: remove or merge one"
            )
        seen[subject] = here
