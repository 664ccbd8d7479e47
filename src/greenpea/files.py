"""Files that are whole or absent: nothing half-written is ever seen under its final name."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
