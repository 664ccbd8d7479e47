"""Tables people bring: CSV (plain or gzipped, any usual encoding) and Parquet, with their untidiness."""

from __future__ import annotations

import csv as python_csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

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
WHOLE_FLOAT = re.compile(r"\d+\.0")


def read_table(path: str | Path, text_columns: Collection[str] = ()) -> pa.Table:
    """Read a CSV, gzipped CSV or Parquet table, chosen by the file's name.

    A byte-order mark, Latin-1 text and unnamed index columns are survived. Columns with one of the usual
    names of identifiers, and ``text_columns``, are read as text: every digit and leading zero is kept.
    Raises GreenpeaError naming the file.
    """
    path = Path(path)
    if not path.is_file():
        raise GreenpeaError(f"there is no file {path}; give a CSV or Parquet table")
    name = path.name.lower()
    try:
        if name.endswith((".parquet", ".pq")):
            return pq.read_table(path)
        if name.endswith((".csv", ".csv.gz", ".txt", ".tsv")):
            return _read_csv(path, "\t" if name.endswith(".tsv") else ",", text_columns)
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        raise GreenpeaError(f"{path} cannot be read as a table: {error}") from error
    raise GreenpeaError(f"{path}: tables are CSV (.csv, .csv.gz, .tsv) or Parquet (.parquet)")


def _read_csv(path: Path, delimiter: str, text_columns: Collection[str]) -> pa.Table:
    raw = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        raw = gzip.decompress(raw)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    if not text.strip():
        raise GreenpeaError(f"{path} is empty")
    table = csv.read_csv(
        io.BytesIO(text.encode()),
        read_options=csv.ReadOptions(block_size=1 << 26),
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            strings_can_be_null=True,
            null_values=["", "NA", "NaN", "nan", "null"],
            column_types={
                name: pa.string()
                for name in _header(text, delimiter)
                if name in text_columns or name.lower() in ID_COLUMNS
            },
        ),
    )
    named = [name or f"column_{index + 1}" for index, name in enumerate(table.column_names)]
    twice = [name for name, count in Counter(named).items() if count > 1]
    if twice:
        raise GreenpeaError(f"{path} has the column {twice[0]!r} more than once: rename one")
    return table.rename_columns(named)


def _header(text: str, delimiter: str) -> list[str]:
    return next(python_csv.reader(io.StringIO(text), delimiter=delimiter))


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
    texts = [text.strip() for text in pc.fill_null(pc.cast(column, pa.string()), "").to_pylist()]
    if all(WHOLE_FLOAT.fullmatch(text) for text in texts if text):
        texts = [text.removesuffix(".0") for text in texts]
    return np.asarray(texts, dtype=object)


def _all_whole(column: pa.ChunkedArray) -> bool:
    values = column.to_numpy()
    return bool(np.all(np.isfinite(values)) and np.all(values == np.floor(values)) and np.all(np.abs(values) < 2**53))


def refuse_duplicates(subject_ids: np.ndarray, column: str, where: str) -> None:
    """Raise GreenpeaError naming the first row without an identifier, or with one seen before."""
    seen: dict[str, int] = {}
    for row, subject in enumerate(subject_ids):
        if not subject:
            raise GreenpeaError(f"{where}, row {row + 2}: column {column!r} is blank; give the subject an id")
        if subject in seen:
            raise GreenpeaError(
                f"{where}, row {row + 2}: the id {subject!r} stood in row {seen[subject] + 2} already; "
                f"every subject has one row: remove or merge one"
            )
        seen[subject] = row
