"""Tables that grow part by part and survive a kill: each part is whole or absent, and known by what was asked for.

::

    OUT.unfinished/_job.json            what decides the bytes: model, settings, subjects, versions
                   part-00000.parquet   so many subjects each, in order; absent where none could be read
                   draws-00000.parquet  the draws of the same subjects, where they are wanted
                   _part-00000.json     written last: the part is done; who could not be read

At the end the parts are joined into one file, or the folder itself becomes the result, with ``_job.json`` and
``_unreadable.csv`` in it (readers of Parquet folders pass over names that begin with "_"). What is there under the
final name stays until then.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from greenpea.errors import GreenpeaError
from greenpea.files import alone, replacing, saving

JOB, UNREADABLE, LOCK = "_job.json", "_unreadable.csv", "_lock"
FORMAT = "greenpea-parts/1"
MAIN, DRAWS = "part", "draws"
Left = Sequence[tuple[str, str]]  # subjects left out, and why


@dataclass(frozen=True)
class Unfinished:
    """A folder of parts on the way to ``out``."""

    out: Path
    folder: Path
    parts: int

    @classmethod
    @contextmanager
    def open(cls, out: Path, job: Mapping[str, Any], parts: int, anew: bool = False) -> Iterator[Unfinished]:
        """Begin, or go on where a process with the same ``job`` stopped. One process at a time.

        Raises GreenpeaError where parts of another job lie there, naming what differs (``anew`` throws them away), and
        where ``out`` is a folder of other things.
        """
        folder = out.with_name(f"{out.name}.unfinished")
        with ExitStack() as stack:
            with saving(out):
                _refuse_strangers(out)
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(alone(folder / LOCK, f"another process is writing {out} now: let it finish"))
                _begin(folder, {"format": FORMAT} | json.loads(json.dumps(job)), anew)
            yield cls(out, folder, parts)

    @property
    def missing(self) -> list[int]:
        """The numbers of the parts that are not done, rising."""
        return [number for number in range(self.parts) if not self._record(number).is_file()]

    def add(self, number: int, tables: Mapping[str, Sequence[pa.Table]], left: Left, about: Mapping[str, str]) -> None:
        """Write a part, whole or not at all: per name its tables, one after another; and who was left out.

        ``about`` joins the metadata of `MAIN`.
        """
        with saving(self.out):
            for name, some in tables.items():
                if some:
                    _write_table(self._file(name, number), some, about if name == MAIN else {})
            rows = sum(len(table) for table in tables.get(MAIN, []))
            _write(self._record(number), json.dumps({"rows": rows, "left": [list(pair) for pair in left]}) + "\n")

    def left(self) -> list[tuple[str, str]]:
        """Return who was left out, in order, and why."""
        return [(subject, why) for number in range(self.parts) for subject, why in self._told(number)["left"]]

    def rows(self) -> int:
        """Return how many rows there are in all."""
        return sum(self._told(number)["rows"] for number in range(self.parts))

    def join(self, others: Mapping[str, Path] | None = None) -> None:
        """Make the parts one file, `out`; ``others`` are the places of parts of other names. The folder goes."""
        with saving(self.out):
            for name, place in {MAIN: self.out, **(others or {})}.items():
                self._join(name, place)
            _list_left(self.left(), self.out.with_suffix(".unreadable.csv"))
            self.forget()

    def keep(self) -> None:
        """Make the folder itself `out`, in place of an older one."""
        with saving(self.out):
            _list_left(self.left(), self.folder / UNREADABLE)
            _refuse_strangers(self.out)
            if self.out.is_dir():
                shutil.rmtree(self.out)
            self.folder.replace(self.out)
            for path in (self.out / LOCK, *self.out.glob("_part-*.json")):
                path.unlink()

    def forget(self) -> None:
        """Throw the parts away; the records first, so that a part that is gone never counts as done."""
        for number in range(self.parts):
            self._record(number).unlink(missing_ok=True)
        shutil.rmtree(self.folder)

    def _join(self, name: str, place: Path) -> None:
        files = [file for number in range(self.parts) if (file := self._file(name, number)).is_file()]
        schema = pq.read_schema(files[0])
        joined = self.folder / f"_joined-{name}.parquet"
        with pq.ParquetWriter(joined, schema, compression="zstd") as writer:
            for file in files:
                one = pq.ParquetFile(file)
                for group in range(one.num_row_groups):
                    writer.write_table(one.read_row_group(group).cast(schema))
        _onto_disk(joined)
        joined.replace(place)

    def _file(self, name: str, number: int) -> Path:
        return self.folder / f"{name}-{number:05d}.parquet"

    def _record(self, number: int) -> Path:
        return self.folder / f"_part-{number:05d}.json"

    def _told(self, number: int) -> dict[str, Any]:
        return json.loads(self._record(number).read_text(encoding="utf-8"))


def _refuse_strangers(out: Path) -> None:
    """Refuse to put parts in the place of a folder that is no such result."""
    if out.is_dir() and any(out.iterdir()) and not (out / JOB).is_file():
        raise GreenpeaError(
            f"{out} is a folder that holds other things: give a new folder's name, or one that ends in .parquet"
        )


def _begin(folder: Path, wanted: dict[str, Any], anew: bool) -> None:
    if anew:
        for path in sorted(folder.iterdir()):  # the job and the records first
            if path.name != LOCK:
                path.unlink()
    if (folder / JOB).is_file():
        _refuse_others(folder, wanted)
    else:
        _write(folder / JOB, json.dumps(wanted, indent=2) + "\n")


def _refuse_others(folder: Path, wanted: dict[str, Any]) -> None:
    try:
        found = json.loads((folder / JOB).read_text(encoding="utf-8"))
    except ValueError:
        found = {"format": "damaged"}
    differ = [
        f"{name} {_short(found.get(name))} then, {_short(wanted.get(name))} now"
        for name in {**found, **wanted}
        if found.get(name) != wanted.get(name)
    ]
    if differ:
        raise GreenpeaError(
            f"{folder} holds the parts of another run ({'; '.join(differ)}): go on as it was begun, or begin anew "
            f"with --anew, which throws them away"
        )


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 16 else f"{text[:12]}…"


def _write_table(path: Path, tables: Sequence[pa.Table], about: Mapping[str, str]) -> None:
    metadata = {key.decode(): value.decode() for key, value in (tables[0].schema.metadata or {}).items()}
    schema = tables[0].schema.with_metadata({**metadata, **about})
    temporary = path.with_suffix(".new")
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        writer.write_table(pa.concat_tables(tables).replace_schema_metadata(schema.metadata))
    _onto_disk(temporary)
    temporary.replace(path)


def _write(path: Path, text: str) -> None:
    # A fixed temporary name, so that what a kill leaves is written over and not left lying about.
    temporary = path.with_suffix(".new")
    temporary.write_text(text, encoding="utf-8")
    _onto_disk(temporary)
    temporary.replace(path)


def _onto_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _list_left(left: Left, path: Path) -> None:
    if not left:
        path.unlink(missing_ok=True)
        return
    table = pa.table({"subject_id": [subject for subject, _ in left], "reason": [why for _, why in left]})
    with replacing(path) as temporary:
        pa_csv.write_csv(table, temporary)
