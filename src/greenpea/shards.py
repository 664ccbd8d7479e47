"""Shards: many images in few files, where millions of small ones would hurt. Tars as WebDataset reads them, or Parquet.

::

    SHARDS/shards.json          what was packed, and how
           00000.tar …          000000000.jpg, 000000000.json (id and metadata), 000000001.jpg, …
           00000.parquet …      or: subject_id, image {bytes, path}, metadata; small row groups
           index/00000.parquet  who is in a shard, and where in it: a shard counts once this is there
           index/00000.footer   of a Parquet shard: a copy of its end, with which one that was cut short can be read

The index makes subjects known without a shard being opened. Tars without one (made elsewhere) are looked through.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from greenpea.errors import GreenpeaError
from greenpea.files import replacing
from greenpea.formats import ending_of, usual_ending
from greenpea.locations import LOCATIONS, footer_of

MANIFEST, INDEX = "shards.json", "index"
VERSION = 1
GROUP_BYTES = 4 * 2**20  # of images in a row group: what is read to get at one of them
Location = dict[str, str | int | None]


# ---- what was packed, and how ------------------------------------------------------------------------


@dataclass(frozen=True)
class Manifest:
    """What stands in ``shards.json``."""

    format: str  # tar or parquet
    size: int  # subjects in a shard; the last may have fewer
    subjects: int
    version: int = VERSION

    @property
    def count(self) -> int:
        """How many shards there are."""
        return -(-self.subjects // self.size)

    def save(self, folder: Path) -> None:
        with replacing(folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read it. Raises GreenpeaError where it is not ours."""
        path = folder / MANIFEST
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise GreenpeaError(f"{path} is damaged: {error}; pack the images again") from error
        if found.version != VERSION:
            raise GreenpeaError(f"{path} was written by another version of Greenpea: pack the images again")
        return found


def place_of(folder: Path, number: int, kind: str) -> Path:
    """Return where shard ``number`` is."""
    return folder / f"{number:05d}.{kind}"


def index_of(folder: Path, number: int) -> Path:
    """Return where the index of shard ``number`` is."""
    return folder / INDEX / f"{number:05d}.parquet"


# ---- writing one -------------------------------------------------------------------------------------


class Writer(Protocol):
    """Writes one shard, image after image, and says where each of them is."""

    def add(self, number: int, subject_id: str, data: bytes, metadata: Mapping[str, Any]) -> None: ...

    def close(self) -> list[Location]:
        """Write what is left, and return where every image is; the file stays open."""
        ...


class TarWriter:
    """A tar with an image and a JSON file per subject, named by the subject's number in the whole set."""

    def __init__(self, file: BinaryIO, name: str, schema: pa.Schema) -> None:
        self._file = file
        self._name = name
        self._locations: list[Location] = []

    def add(self, number: int, subject_id: str, data: bytes, metadata: Mapping[str, Any]) -> None:
        about = json.dumps({"subject_id": subject_id, **metadata}, ensure_ascii=False, default=str)
        self._member(f"{number:09d}.json", about.encode())
        offset = self._member(f"{number:09d}{usual_ending(data)}", data)
        crc32 = zlib.crc32(data)
        self._locations.append(
            {"image": self._name, "image_offset": offset, "image_length": len(data), "image_crc32": crc32}
        )

    def _member(self, name: str, data: bytes) -> int:
        """Write one file of the tar and return where its bytes begin. No times, no owners: the same bytes again."""
        about = tarfile.TarInfo(name)
        about.size = len(data)
        self._file.write(about.tobuf(tarfile.GNU_FORMAT))
        offset = self._file.tell()
        self._file.write(data)
        self._file.write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset

    def close(self) -> list[Location]:
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))
        return self._locations


class ParquetWriter:
    """A Parquet table as the Hugging Face datasets library lays it out, in row groups of some megabytes."""

    def __init__(self, file: BinaryIO, name: str, schema: pa.Schema) -> None:
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        self._schema = pa.schema([("subject_id", pa.string()), ("image", image), *schema])
        # Images are compressed already, and ids never repeat.
        self._table = pq.ParquetWriter(file, self._schema, compression="none", use_dictionary=False)
        self._file, self._name = file, name
        self._rows: list[dict[str, Any]] = []
        self._bytes = self._count = 0

    def add(self, number: int, subject_id: str, data: bytes, metadata: Mapping[str, Any]) -> None:
        image = {"bytes": data, "path": f"{number:09d}{usual_ending(data)}"}
        self._rows.append({"subject_id": subject_id, "image": image, **metadata})
        self._bytes += len(data)
        self._count += 1
        if self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._table.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows, self._bytes = [], 0

    def close(self) -> list[Location]:
        self._flush()
        self._table.close()
        size = self._file.tell()
        there: Location = {"image": self._name, "image_column": "image.bytes", "image_table_size": size}
        return [{**there, "image_row": row} for row in range(self._count)]


WRITERS: dict[str, type[TarWriter] | type[ParquetWriter]] = {"tar": TarWriter, "parquet": ParquetWriter}


def write_index(folder: Path, number: int, subject_ids: np.ndarray, where: list[Location], metadata: pa.Table) -> None:
    """Make shard ``number`` count: written last, whole or not at all."""
    columns: dict[str, Any] = {"subject_id": pa.array(subject_ids, pa.string())}
    for field in LOCATIONS:
        if any(place.get(field.name) is not None for place in where):
            columns[field.name] = pa.array([place.get(field.name) for place in where], field.type)
    columns |= dict(zip(metadata.column_names, metadata.columns, strict=True))
    with replacing(index_of(folder, number)) as temporary:
        pq.write_table(pa.table(columns), temporary)


def keep_footer(written: Path, shard: Path) -> None:
    """Keep a copy of the end of a Parquet shard, ``written`` under a temporary name, that will be ``shard``."""
    with replacing(footer_of(shard)) as temporary:
        pq.read_metadata(written).write_metadata_file(str(temporary))


# ---- opening some ------------------------------------------------------------------------------------


def are_at(path: str | Path) -> bool:
    """Whether there are shards at ``path``: a folder that was packed, one with tars, or a tar."""
    path = Path(path)
    if not path.is_dir():
        return _is_tar(path)
    return (path / MANIFEST).is_file() or any(_is_tar(one) for one in path.iterdir() if one.is_file())


def _is_tar(path: Path) -> bool:
    return path.name.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"))


def subjects_of(path: Path) -> tuple[pa.Table, Path, str]:
    """Return ids, `LOCATIONS` and metadata of all subjects; the folder that locations are seen from; what to note.

    Raises GreenpeaError where packing was not finished, and where a tar is not one.
    """
    if (path / MANIFEST).is_file():
        return _indexed(path), path, ""
    tars = sorted(one for one in path.iterdir() if _is_tar(one)) if path.is_dir() else [path]
    found = [_Scanned.of(tar) for tar in tars]
    tables, notes = _named_apart(found), [one.note for one in found if one.note]
    return (
        pa.concat_tables(tables, promote_options="permissive"),
        path if path.is_dir() else path.parent,
        "; ".join(notes),
    )


def _indexed(folder: Path) -> pa.Table:
    manifest = Manifest.load(folder)
    missing = [number for number in range(manifest.count) if not index_of(folder, number).is_file()]
    if missing:
        raise GreenpeaError(
            f"{folder}: packing is not finished, {len(missing)} of {manifest.count} shards are missing: run the same "
            f"'greenpea pack' again, it goes on"
        )
    tables = [pq.ParquetFile(index_of(folder, number)).read() for number in range(manifest.count)]
    return pa.concat_tables(tables, promote_options="permissive")


@dataclass(frozen=True)
class _Scanned:
    """What the headers of a tar say: per image its id (by name), where it is, and what the JSON beside it knows."""

    tar: Path
    ids: list[str]
    where: list[tuple[int, int]]
    about: list[dict[str, Any]]
    note: str

    @classmethod
    def of(cls, path: Path) -> _Scanned:
        members, problem = _members(path)
        known: dict[str, dict[str, Any]] = {}
        images: list[tuple[str, int, int]] = []
        others = 0
        with path.open("rb") as file:
            for name, offset, size in members:
                if ending := ending_of(name):
                    images.append((name[: -len(ending)], offset, size))
                elif name.endswith(".json"):
                    file.seek(offset)
                    known[name.removesuffix(".json")] = _flat(file.read(size))
                else:
                    others += 1
        notes = [problem] if problem else []
        if others:
            notes.append(f"{others} files in {path.name} that are neither images nor JSON were left out")
        about = [known.get(key, {}) for key, _, _ in images]
        return cls(path, [key for key, _, _ in images], [image[1:] for image in images], about, "; ".join(notes))

    def table(self, ids: Sequence[str]) -> pa.Table:
        columns: dict[str, Any] = {
            "subject_id": pa.array(ids, pa.string()),
            "image": pa.array([self.tar.name] * len(ids), pa.string()),
            "image_offset": pa.array([offset for offset, _ in self.where], pa.int64()),
            "image_length": pa.array([length for _, length in self.where], pa.int64()),
        }
        names = dict.fromkeys(name for about in self.about for name in about)
        for name in names:
            if name not in ("subject_id", *LOCATIONS.names):
                columns[name] = _column([about.get(name) for about in self.about])
        return pa.table(columns)


def _members(path: Path) -> tuple[list[tuple[str, int, int]], str]:
    """Return name, offset and size of every file in a tar, and what is wrong with it, or ""."""
    members: list[tuple[str, int, int]] = []
    problem = ""
    try:
        with path.open("rb") as file:
            if file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
                raise GreenpeaError(f"{path} is a compressed tar, in which no image can be reached: unpack it first")
        with tarfile.open(path, "r:") as tar:
            try:
                members.extend((one.name, one.offset_data, one.size) for one in tar if one.isfile())
                whole = _ends(path, tar.offset)
            except tarfile.ReadError:
                whole = False
        if not whole:
            problem = f"{path.name} is cut short: of what followed {len(members):,} files nothing is known"
    except (tarfile.TarError, OSError) as error:
        raise GreenpeaError(f"{path} cannot be read as a tar: {error}") from error
    return members, problem


def _ends(path: Path, at: int) -> bool:
    """Whether a tar ends where its last header was looked for: with a block of zeros."""
    with path.open("rb") as file:
        file.seek(at)
        return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _flat(data: bytes) -> dict[str, Any]:
    """Return what a JSON file says in single values; {} where it is no object."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    flat = (str, int, float, bool, type(None))
    return {key: value for key, value in found.items() if isinstance(value, flat)} if isinstance(found, dict) else {}


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except pa.ArrowException:  # numbers here and words there
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def _named_apart(found: Sequence[_Scanned]) -> list[pa.Table]:
    """Name subjects by ``subject_id`` in all JSON files, else by their path in the tar, else with the tar's name."""
    ids = [[str(about.get("subject_id", "")) for about in one.about] for one in found]
    if not all(subject for some in ids for subject in some):
        ids = [one.ids for one in found]
        every = [subject for some in ids for subject in some]
        if len(set(every)) < len(every):
            ids = [[f"{one.tar.stem}/{subject}" for subject in one.ids] for one in found]
    if not any(ids):
        raise GreenpeaError(f"{found[0].tar if found else 'the folder'}: no images in the tars, by the files' endings")
    return [one.table(some) for one, some in zip(found, ids, strict=True)]
