"""Subjects: the things classified. Who they are, where their images lie, and what else is known of them.

Nothing is opened here but tables: whether an image can be read shows when it is loaded (`images`).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int

from greenpea import shards
from greenpea.errors import GreenpeaError, did_you_mean
from greenpea.files import replacing
from greenpea.formats import ENDINGS, ending_of
from greenpea.locations import LOCATIONS, Holders, absolute, addresses, of_files, of_table, reading_order, relative
from greenpea.locations import concatenate as concatenate_locations
from greenpea.remote import Fetching, is_address
from greenpea.tables import ID_COLUMNS, NOTE, column_as_strings, find_id_column, read_table, refuse_duplicates

FILE = "subjects.parquet"
VERSION = 1

IMAGE_COLUMNS = (
    *("image", "image.bytes", "image_bytes", "file", "filename", "file_name", "file_loc", "filepath", "file_path"),
    *("path", "image_path", "png_loc", "jpg_loc", "fits_loc", "url", "image_url", "cutout_url"),
)

CHECKS = {"image_size": ("image_size", "file_size"), "image_sha256": ("image_sha256", "sha256")}
A_DAY = 86_400.0  # seconds
RESERVED = ("subject_id", *LOCATIONS.names)


def in_audit(subject_id: str, share: float) -> bool:
    """Whether a subject is in the audit set: by a hash of its id, the same on every machine and for ever.

    Subjects between two shares are as much a choice of chance: the reference set lies behind the audit set.
    """
    digest = hashlib.sha256(f"audit:{subject_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


@dataclass(frozen=True, eq=False)
class SubjectSet:
    """Subjects imported together.

    ``subject_ids`` is an object array of str, unique. ``locations`` says where each image is (`LOCATIONS`;
    paths are absolute): ask `source`. ``metadata`` holds the subjects' own other columns, in the same row
    order; it has no columns where nothing else is known. ``note`` says what was assumed at import, or "".
    """

    subject_ids: np.ndarray
    locations: pa.Table
    metadata: pa.Table
    note: str = ""
    _holders: Holders = field(default_factory=Holders, repr=False)

    def __post_init__(self) -> None:
        tables = [self.locations, self.metadata] if self.metadata.num_columns else [self.locations]
        if any(table.num_rows != len(self) for table in tables):
            raise GreenpeaError(
                f"{len(self)} subjects, {self.locations.num_rows} locations and {self.metadata.num_rows} rows of "
                f"metadata: give one of each per subject"
            )
        if taken := set(RESERVED) & set(self.metadata.column_names):
            raise GreenpeaError(f"metadata cannot have a column {min(taken)!r}: rename it")

    def __len__(self) -> int:
        return len(self.subject_ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SubjectSet):
            return NotImplemented
        return bool(
            np.array_equal(self.subject_ids, other.subject_ids)
            and self.locations.equals(other.locations)
            and list(_columns(self.metadata).items()) == list(_columns(other.metadata).items())
        )

    # ---- making one --------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        path: str | Path,
        id_column: str | None = None,
        image_column: str | None = None,
        root: str | Path | None = None,
    ) -> SubjectSet:
        """Return the subjects of a folder of images (`from_folder`), of a table (`from_table`), of shards
        (`from_shards`), or of several Parquet tables in one folder without images, as large sets are published."""
        if shards.are_at(path):
            _refuse_columns(path, "holds shards, which know their subjects", id_column, image_column)
            return cls.from_shards(path)
        if not Path(path).is_dir():
            return cls.from_table(path, id_column, image_column, root)
        tables = sorted(Path(path).glob("*.parquet"))
        if tables and not any(ending_of(name) for name in _files(Path(path))):
            return cls.concatenate([cls.from_table(table, id_column, image_column, root) for table in tables])
        _refuse_columns(path, "is a folder, which has no columns: give the table", id_column, image_column)
        return cls.from_folder(path)

    @classmethod
    def from_shards(cls, path: str | Path) -> SubjectSet:
        """Return the subjects of shards: what `packing.pack` made, or WebDataset's tars, in a folder or one alone.

        With an index the shards themselves are not opened. Without one the tars' headers are read: each image is a
        subject, named by its path in the tar without its ending, or by ``subject_id`` in the JSON beside it.
        """
        table, folder, note = shards.subjects_of(Path(path))
        refuse_duplicates(column_as_strings(table["subject_id"]), "subject_id", str(path))
        return cls._of_table(table, folder, note)

    @classmethod
    def from_folder(cls, folder: str | Path) -> SubjectSet:
        """Return one subject per image file in ``folder`` and the folders in it, sorted by id.

        The id is the path within ``folder`` without its ending (``spirals/M 51``). Hidden files are passed
        over. Raises GreenpeaError on two files with one id, and on a folder without images.
        """
        base = Path(folder).resolve()
        if not base.is_dir():
            raise GreenpeaError(f"there is no folder {folder}; give a folder of images, or a table that lists them")
        found: dict[str, str] = {}
        others = 0
        for name in _files(base):
            ending = ending_of(name)
            if not ending:
                others += 1
                continue
            subject = name[: -len(ending)]
            if subject in found:
                raise GreenpeaError(
                    f"{folder}: {found[subject]} and {name} would both be subject {subject!r}; rename or remove one"
                )
            found[subject] = name
        if not found:
            raise GreenpeaError(
                f"{folder} holds no images ({', '.join(ENDINGS)})"
                + (f", but {others} other files: give the table itself if one of them lists the images" * bool(others))
            )
        note = f"{others} files that are not images were left out" if others else ""
        return cls.from_files(sorted(found), [found[subject] for subject in sorted(found)], base, note=note)

    @classmethod
    def from_files(
        cls,
        subject_ids: Sequence[str] | np.ndarray,
        paths: Sequence[str | Path],
        root: str | Path = ".",
        metadata: pa.Table | None = None,
        note: str = "",
    ) -> SubjectSet:
        """Return subjects whose images are files; relative ``paths`` are relative to ``root``, "" is none."""
        ids = np.asarray(subject_ids, dtype=object)
        refuse_duplicates(ids, "subject_id", "the subjects")
        locations = of_files(absolute(pa.array([str(path) for path in paths], pa.string()), root))
        return cls(ids, locations, pa.table({}) if metadata is None else metadata, note)

    @classmethod
    def from_table(
        cls,
        path: str | Path,
        id_column: str | None = None,
        image_column: str | None = None,
        root: str | Path | None = None,
    ) -> SubjectSet:
        """Return one subject per row of a CSV (plain or gzipped), Parquet, FITS or VOTable table.

        Images are named by path, relative to ``root`` (default: the table's folder), or by web address, whose size
        in bytes and SHA-256 are checked where columns `CHECKS` tell them, or embedded in a
        Parquet table as bytes: a binary column, or a struct of ``bytes`` and ``path`` as Hugging Face writes
        (where its bytes are null, the path counts). Columns are found by their usual names (`ID_COLUMNS`,
        `IMAGE_COLUMNS`) unless given; several columns of paths, parted by commas, are the bands of one image;
        without an id column the file's name without its ending is the id,
        and ``note`` says so. The other columns become ``metadata``, except those that embed bytes; one whose
        name is `RESERVED` gets ``table_`` before it.

        Raises GreenpeaError naming the file, the row (the header is row 1) and the column.
        """
        path, where = Path(path), Path(path).name
        fields, table, rows = _read_without_bytes(path, [id_column] if id_column else [])
        if rows == 0:
            raise GreenpeaError(f"{where} has a header but no rows: give a table with one row per subject")
        column, *more = _image_columns(fields, image_column, where)
        base = (path.parent if root is None else Path(root)).resolve()
        names = None
        if not more and _holds_bytes(fields.field(column).type):
            locations, names = of_table(path, column, base)
        else:
            locations = of_files(absolute(pc.utf8_trim_whitespace(pc.cast(table[column], pa.string())), base))
            locations = _with_checks(locations, table, where)
            if more:
                locations = locations.append_column("image_more", _further(table, more, base))
        ids, id_column, note = _identify(table, id_column, names, column, where)
        metadata = table.drop_columns([name for name in (id_column, column, *more) if name in table.column_names])
        left_out = (fields.metadata or {}).get(NOTE.encode(), b"").decode()
        return cls(ids, locations, _without_reserved(metadata), "; ".join(filter(None, (note, left_out))))

    @classmethod
    def concatenate(cls, sets: Sequence[SubjectSet]) -> SubjectSet:
        """Return the subjects of several sets as one; what a set does not know in ``metadata`` is null.

        Raises GreenpeaError where an id stands in two sets, and where a column holds different kinds.
        """
        ids = np.concatenate([subjects.subject_ids for subjects in sets])
        counts = Counter(ids)
        if len(counts) < len(ids):
            twice = next(subject for subject in ids if counts[subject] > 1)
            raise GreenpeaError(f"subject {twice!r} stands in more than one set: remove or rename one")
        # A table without columns forgets its rows: the ids hold them while they are joined.
        held = [
            pa.table({"subject_id": pa.array(subjects.subject_ids, pa.string())} | _columns(subjects.metadata))
            for subjects in sets
        ]
        try:
            metadata = pa.concat_tables(held, promote_options="default").drop_columns("subject_id")
        except pa.ArrowException as error:
            raise GreenpeaError(f"the sets' columns cannot be joined: {error}; make them alike") from error
        locations = concatenate_locations([subjects.locations for subjects in sets])
        note = "; ".join(dict.fromkeys(subjects.note for subjects in sets if subjects.note))
        return cls(ids, locations, metadata, note)

    # ---- using one ---------------------------------------------------------------------------------

    def source(self, index: int) -> Path | bytes:
        """Return where the image is: a file's path (which need not exist), or the embedded bytes themselves.
        What lies at a web address is downloaded, unless it is in the cache.

        ``b""`` where the table names no image. Raises GreenpeaError where the table that embeds it is gone
        or was rewritten, `Unreadable` where a shard lacks it. May be called from several threads.
        """
        return self.sources(index)[0]

    def sources(self, index: int) -> tuple[Path | bytes, ...]:
        """Return where the image is, as `source`; for a subject of several files, where its further channels are."""
        place = {name: self.locations[name][index].as_py() for name in self.locations.column_names}
        more = place.pop("image_more", None) or ()
        return self._holders.read(place), *(self._holders.read({"image": image}) for image in more)

    def place(self, index: int) -> Path | None:
        """Return the file that is the image, or that holds it; None where there is none. Nothing is opened."""
        image = self.locations["image"][index].as_py()
        return Path(image) if image and not is_address(image) else None

    def fetch(self) -> None:
        """Download what lies at web addresses and is not in the cache yet, several at a time.

        Nothing is raised: `source` says what went wrong.
        """
        self._holders.cache.fetch(addresses(self.locations))

    def fetching(self, options: Fetching) -> SubjectSet:
        """Return these subjects, their web addresses read as ``options`` say."""
        return replace(self, _holders=Holders(options))

    def changed_since(self, when: float) -> bool:
        """Whether the file of one of these images, or what holds it, is newer than ``when``, seconds of the epoch.

        What lies at a web address may have changed after a day.
        """
        for row in range(len(self)):
            file = self.place(row)
            if file is not None and file.is_file() and file.stat().st_mtime > when:
                return True
        return time.time() - when > A_DAY and bool(addresses(self.locations))

    def reading_order(self) -> Int[np.ndarray, " subject"]:
        """Return the subjects' indices in the order that reads every table and shard once, from front to back."""
        return reading_order(self.locations)

    def digest(self) -> str:
        """Return the SHA-256 of who the subjects are, where their images lie, and what else is known of them."""
        found = hashlib.sha256()
        for batch in self.to_table().combine_chunks().to_batches(max_chunksize=1 << 16):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                found.update(name.encode() + repr(column.to_pylist()).encode("utf-8", "surrogatepass"))
        return found.hexdigest()

    def select(self, rows: np.ndarray | Sequence[int]) -> SubjectSet:
        """Return some subjects, by index or boolean mask, in that order."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        metadata = self.metadata.take(rows) if self.metadata.num_columns else self.metadata
        return SubjectSet(self.subject_ids[rows], self.locations.take(rows), metadata, self.note, self._holders)

    # ---- tables ------------------------------------------------------------------------------------

    def to_table(self) -> pa.Table:
        """Return one row per subject: ``subject_id``, where its image is (`LOCATIONS`, what is needed), metadata."""
        ids = pa.array(self.subject_ids, pa.string())
        return pa.table({"subject_id": ids} | _columns(self.locations) | _columns(self.metadata))

    def save(self, folder: str | Path) -> Path:
        """Write ``subjects.parquet`` in a campaign's folder and return its path.

        Paths inside the folder are stored relative to it, so that it can move as a whole; others are
        absolute. Embedded images are stored as a reference (table, row), not copied.
        """
        table = self.to_table()
        place = table.column_names.index("image")
        table = table.set_column(place, "image", relative(table["image"], folder))
        if "image_more" in table.column_names:
            table = _each(table, lambda files: relative(files, folder))
        about = {"version": VERSION, "note": self.note}
        path = Path(folder) / FILE
        with replacing(path) as temporary:
            pq.write_table(table.replace_schema_metadata({"greenpea.subjects": json.dumps(about)}), temporary)
        return path

    @classmethod
    def load(cls, folder: str | Path) -> SubjectSet:
        """Return what `save` wrote; GreenpeaError where there is none or it is not ours."""
        path = Path(folder) / FILE
        if not path.is_file():
            raise GreenpeaError(f"there is no {path}: import the subjects first")
        try:
            table = pq.ParquetFile(path).read()
        except (pa.ArrowException, OSError) as error:
            raise GreenpeaError(f"{path} cannot be read: {error}; import the subjects again") from error
        about = json.loads((table.schema.metadata or {}).get(b"greenpea.subjects", b"{}"))
        if about.get("version") != VERSION:
            raise GreenpeaError(f"{path} was not written by this version of Greenpea: import the subjects again")
        return cls._of_table(table.replace_schema_metadata(None), folder, about["note"])

    @classmethod
    def _of_table(cls, table: pa.Table, folder: str | Path, note: str) -> SubjectSet:
        """Return the set of a table such as `to_table` gives, with paths from ``folder``."""
        locations = table.select([name for name in LOCATIONS.names if name in table.column_names])
        locations = locations.set_column(0, "image", absolute(table["image"], folder))
        if "image_more" in locations.column_names:
            locations = _each(locations, lambda files: absolute(files, folder))
        metadata = table.drop_columns([name for name in RESERVED if name in table.column_names])
        return cls(column_as_strings(table["subject_id"]), locations, metadata, note)


# ---- reading folders and tables ----------------------------------------------------------------------


def _files(base: Path) -> Iterator[str]:
    """Every file under a folder that is not hidden, as its path within, with forward slashes."""
    for folder, folders, names in os.walk(base):
        folders[:] = [name for name in folders if not name.startswith(".")]
        within = Path(folder).relative_to(base)
        for name in names:
            if name.startswith("."):
                continue
            try:
                name.encode()
            except UnicodeEncodeError:
                raise GreenpeaError(f"{folder}: the file name {name!r} is not UTF-8; rename it") from None
            yield (within / name).as_posix()


def _read_without_bytes(path: Path, text: Sequence[str]) -> tuple[pa.Schema, pa.Table, int]:
    """Return a table's whole schema, its rows without the columns that embed bytes, and how many they are."""
    if not path.name.lower().endswith((".parquet", ".pq")):
        table = read_table(path, text)
        return table.schema, table.replace_schema_metadata(None), table.num_rows
    if not path.is_file():
        raise GreenpeaError(f"there is no file {path}; give a folder of images, or a table")
    try:
        file = pq.ParquetFile(path)
        fields = file.schema_arrow
        table = file.read(columns=[column.name for column in fields if not _holds_bytes(column.type)])
    except (pa.ArrowException, OSError) as error:
        raise GreenpeaError(f"{path} cannot be read as a table: {error}") from error
    return fields, table.replace_schema_metadata(None), file.metadata.num_rows


def _refuse_columns(path: str | Path, why: str, *columns: str | None) -> None:
    if any(column is not None for column in columns):
        raise GreenpeaError(f"{path} {why}; leave the columns out")


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _names_files(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _image_columns(fields: pa.Schema, wanted: str | None, where: str) -> list[str]:
    """Return the columns that name the images: one, or several parted by commas, a file each."""
    if wanted is None or wanted in fields.names or "," not in wanted:
        return [_find_image_column(fields, wanted, where)]
    columns = [_find_image_column(fields, name.strip(), where) for name in wanted.split(",") if name.strip()]
    for name in columns:
        if _holds_bytes(fields.field(name).type):
            raise GreenpeaError(f"{where}, column {name!r} embeds images: of several columns each has to name files")
    return columns


def _further(table: pa.Table, columns: Sequence[str], base: Path) -> pa.Array:
    """Return, per row, the files in ``columns`` as a list."""
    files = [absolute(pa.array(column_as_strings(table[name]), pa.string()), base) for name in columns]
    rows = np.arange(table.num_rows)
    every = pa.concat_arrays(files).take(pa.array((rows[:, None] + table.num_rows * np.arange(len(columns))).ravel()))
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(every) + 1, len(columns)), pa.int32()), every)


def _each(table: pa.Table, change: Callable[[pa.Array], pa.Array]) -> pa.Table:
    """Return a table whose further files are changed; rows that have none stay null."""
    lists = table["image_more"].combine_chunks()
    changed = pa.ListArray.from_arrays(lists.offsets, change(lists.values), mask=lists.is_null())
    return table.set_column(table.column_names.index("image_more"), "image_more", changed)


def _find_image_column(fields: pa.Schema, wanted: str | None, where: str) -> str:
    usable = {field.name: field for field in fields if _holds_bytes(field.type) or _names_files(field.type)}
    if wanted is not None:
        for name in (wanted, wanted.removesuffix(".bytes")):
            if name in usable:
                return name
        if wanted in fields.names:
            kind = fields.field(wanted).type
            raise GreenpeaError(f"{where}, column {wanted!r} holds {kind}: images are paths, or bytes in Parquet")
        raise GreenpeaError(f"{where} has no column {wanted!r}{did_you_mean(wanted, fields.names)}")
    lower = {name.lower(): name for name in reversed(usable)}
    for name in IMAGE_COLUMNS:
        if name in lower:
            return str(lower[name])
    listed = ", ".join(fields.names[:12]) + (", …" if len(fields) > 12 else "")
    raise GreenpeaError(
        f"{where} has no column of image paths or bytes among {', '.join(IMAGE_COLUMNS)}: name it. "
        f"Its columns: {listed}"
    )


def _with_checks(locations: pa.Table, table: pa.Table, where: str) -> pa.Table:
    """Add what a table tells of the files at web addresses: their size, bytes, and their SHA-256."""
    if not addresses(locations):
        return locations
    for name, usual in CHECKS.items():
        column = next((one for one in usual if one in table.column_names), None)
        if column is None:
            continue
        try:
            values = pc.cast(table[column], LOCATIONS.field(name).type)
        except pa.ArrowException as error:
            raise GreenpeaError(f"{where}, column {column!r} does not tell the {name}: {error}; rename it") from error
        locations = locations.append_column(name, values)
    return locations


def _identify(
    table: pa.Table, id_column: str | None, names: np.ndarray | None, image_column: str, where: str
) -> tuple[np.ndarray, str | None, str]:
    """Return the ids, the column they stand in (None: taken from the file names), and a note.

    ``names`` are the paths beside embedded images; None: they stand in the table.
    """
    usual = set(ID_COLUMNS) & {name.lower() for name in table.column_names}
    if id_column is None and not usual:
        names = column_as_strings(table[image_column]) if names is None else names
        if names.any():
            ids = np.asarray([Path(name).stem for name in names], dtype=object)
            refuse_duplicates(ids, image_column, where)
            return ids, None, f"ids are the file names in column {image_column!r}: {where} has no id column"
    id_column = find_id_column(table.column_names, id_column, where)
    ids = column_as_strings(table[id_column])
    refuse_duplicates(ids, id_column, where)
    return ids, id_column, ""


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _without_reserved(metadata: pa.Table) -> pa.Table:
    names: list[str] = []
    for name in metadata.column_names:
        while name in RESERVED or name in names:
            name = f"table_{name}"
        names.append(name)
    return metadata.rename_columns(names)
