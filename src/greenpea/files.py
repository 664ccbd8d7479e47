"""Files that are whole or absent: nothing half-written is ever seen under its final name."""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from greenpea.errors import GreenpeaError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes the final name only if the block succeeds.

    Works for a file or a folder, whichever the block creates. A folder already at ``path`` is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary = workplace / path.name
        yield temporary
        if path.is_dir():
            shutil.move(path, workplace / "replaced")
        temporary.replace(path)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def sha256(path: Path, chunk: int = 1 << 20) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal; one pass, ``chunk`` bytes of memory."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(chunk):
            digest.update(block)
    return digest.hexdigest()


REMEDIES = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "the disk quota is used up: make room",
    errno.EROFS: "the disk is read-only: give a place that can be written to",
    errno.EACCES: "this may not be written to: give another place, or change its permissions",
    errno.EPERM: "this may not be written to: give another place, or change its permissions",
    errno.ENOTDIR: "a part of this path is a file, not a folder: give another place",
}


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn what the operating system says when ``path`` cannot be written into words with the remedy."""
    try:
        yield
    except Exception as error:
        # Libraries written in other languages have errors of their own, and tell the number in their words only.
        told = re.search(r"\(os error (\d+)\)|\[errno (\d+)\]", str(error), re.IGNORECASE)
        number = getattr(error, "errno", None) or (int(next(filter(None, told.groups()))) if told else None)
        if number not in REMEDIES:
            raise
        raise GreenpeaError(f"{path} cannot be written, {REMEDIES[number]}, then run the same again") from error


@contextmanager
def alone(lock: Path, otherwise: str) -> Iterator[None]:
    """Hold a lock for this process; it goes with the process, however it ends. ``otherwise`` says why it cannot be."""
    import fcntl  # which not every operating system has

    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise GreenpeaError(otherwise) from error
        yield
