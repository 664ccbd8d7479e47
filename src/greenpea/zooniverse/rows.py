"""Rows of exported CSV files, one at a time: any size, UTF-8 or Latin-1, whole or cut off in the middle."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from greenpea.errors import GreenpeaError

BOM = b"\xef\xbb\xbf"
# A drawing's path runs to megabytes; beyond this a quote was never closed.
LARGEST_CELL = 1 << 26
CHUNK = 1 << 16

# A spreadsheet takes a cell that starts so for a formula (OWASP, "CSV injection").
FORMULA = re.compile(r"'*[=+\-@\t\r]")
GUARDED = re.compile(r"'+[=+\-@\t\r]")


@dataclass(frozen=True)
class Row:
    """One record. ``number`` counts from the header, which is row 1; ``cells`` is column → text.

    ``fault`` says why the row is not whole, or is "". ``unended`` is true of a last row without a line end: its
    last cell may be cut off.
    """

    number: int
    cells: Mapping[str, str]
    fault: str = ""
    unended: bool = False


class Lines:
    """A file's lines as text, read as they are asked for.

    Every line is read as UTF-8, or as Latin-1 where it is not UTF-8: files are pasted together. ``latin_1``
    counts the latter so far; ``ended`` says whether the last one had a line end. Raises GreenpeaError where
    there is no such file. A compressed file that breaks off gives what was read until there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.latin_1 = 0
        self.ended = True

    def __iter__(self) -> Iterator[str]:
        self.latin_1 = 0
        with self._open() as file:
            try:
                for number, line in enumerate(file):
                    self.ended = line.endswith(b"\n")
                    yield self._text(line.removeprefix(BOM) if number == 0 else line)
            except (EOFError, zlib.error):
                self.ended = False
            except gzip.BadGzipFile as error:
                raise GreenpeaError(
                    f"{self.path.name} is not compressed as its name says, or was damaged ({error}): fetch it again"
                ) from error

    def _open(self) -> IO[bytes] | gzip.GzipFile:
        try:
            if self.path.name.lower().endswith(".gz"):
                return gzip.open(self.path, "rb")
            return self.path.open("rb")
        except OSError as error:
            raise GreenpeaError(f"there is no file {self.path} that can be read: give an export as CSV") from error

    def _text(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError:
            self.latin_1 += 1
            return line.decode("latin-1")


def read_rows(lines: Lines, needed: Sequence[str], what: str) -> Iterator[Row]:
    """Yield every record below the header. Blank lines are passed over.

    Raises GreenpeaError where a column of ``needed`` is missing; ``what`` names the export that has them.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST_CELL))
    records, number = csv.reader(lines), 1
    try:
        header = _header(next(records, []), needed, what, lines.path.name)
        waiting: list[str] = []
        for record in records:
            if not record:
                continue
            if waiting:
                yield _row(number, header, waiting)
            waiting, number = record, number + 1
        if waiting:
            yield _row(number, header, waiting, last=True, ended=lines.ended)
    except csv.Error as error:
        raise GreenpeaError(
            f"{lines.path.name}, row {number + 1}: it cannot be read as CSV ({error}); is a quotation mark left open?"
        ) from error


def _header(names: Sequence[str], needed: Sequence[str], what: str, file: str) -> list[str]:
    header = [name.strip().lower() for name in names]
    missing = [name for name in needed if name not in header]
    if missing:
        listed = ", ".join(names[:12]) or "none"
        raise GreenpeaError(
            f"{file} has no column {missing[0]!r}: give {what}, as CSV with commas in UTF-8. Its columns: {listed}"
        )
    return header


def _row(number: int, header: Sequence[str], record: Sequence[str], last: bool = False, ended: bool = True) -> Row:
    fault = ""
    if len(record) != len(header):
        short = last and len(record) < len(header)
        fault = "cut off" if short else f"{len(record)} cells, where the header has {len(header)}"
    cells = {name: unguarded(cell) for name, cell in zip(header, record, strict=False)}
    return Row(number, cells, fault, unended=last and not ended)


def write_rows(header: Sequence[str], records: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield a CSV file as pieces of text of some 64 KiB; cells that spreadsheets take for formulas are guarded."""
    waiting, size = [csv_line(header)], 0
    for record in records:
        waiting.append(csv_line(record))
        size += len(waiting[-1])
        if size > CHUNK:
            yield "".join(waiting)
            waiting, size = [], 0
    yield "".join(waiting)


def csv_line(record: Sequence[object]) -> str:
    """Return one record as CSV, guarded; its line end, CR LF, has the writer quote a lone CR too."""
    buffer = io.StringIO()
    csv.writer(buffer).writerow([guarded(cell) if isinstance(cell, str) else cell for cell in record])
    return buffer.getvalue()


def guarded(cell: str) -> str:
    """Return ``cell`` with an apostrophe before it where a spreadsheet would take it for a formula.

    Cells that have apostrophes before such a mark already get one more, so that `unguarded` undoes it always.
    """
    return f"'{cell}" if FORMULA.match(cell) else cell


def unguarded(cell: str) -> str:
    return cell[1:] if GUARDED.match(cell) else cell


# ---- cells ------------------------------------------------------------------------------------------


def moment(value: Any) -> datetime | None:
    """Return a time as Zooniverse writes it (``2018-02-20T10:41:13.381Z``, ``2018-02-20 10:44:42 UTC``), in UTC.

    A time without a zone is UTC; None where there is none. Raises ValueError where it cannot be read.
    """
    if not value:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a time")
    try:
        time = datetime.fromisoformat(value.strip().replace(" UTC", "+00:00"))
        return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
    except OverflowError as error:
        raise ValueError(str(error)) from error


def timestamp(time: datetime | None) -> str:
    """Return a time as ISO 8601 in UTC, to the microsecond; "" for None. One without a zone is UTC."""
    if time is None:
        return ""
    return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC).isoformat().replace("+00:00", "Z")


def created(time: datetime | None) -> str:
    """Return a time as Panoptes' ``created_at``: ``2018-02-20 10:44:42 UTC``, to the second; "" for None."""
    return timestamp(time)[:19].replace("T", " ") + " UTC" if time else ""
