"""What the tests share: the real data where it is at hand, stores on both databases, hypothesis without deadlines."""

from __future__ import annotations

import os

# Several processes that test at once have a core each: must be said before numpy and torch are loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from hypothesis import settings
from jaxtyping import install_import_hook

from greenpea.store import Store, people
from site_hands import drop_database, new_database, postgres_server

# Shapes in annotations are checked at run time in the rooms where axes matter most.
CHECKED = [
    "greenpea.posterior",
    "greenpea.mixture",
    "greenpea.measurements",
    "greenpea.labels",
    "greenpea.information",
    "greenpea.calibration",
    "greenpea.catalogue",
]
install_import_hook(CHECKED, "beartype.beartype")

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(scope="session", autouse=True)
def careful() -> Iterator[PasswordHasher]:
    """What hashes passwords in use; in the tests it is done in haste."""
    with pytest.MonkeyPatch.context() as patch:
        in_use = people._hasher
        patch.setattr(people, "_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield in_use


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data (``GREENPEA_DATA``, default ``../shared/data`` from the project's root), or a skip."""
    root = Path(__file__).parent.parent
    folder = root / os.environ.get("GREENPEA_DATA", "../shared/data")
    if not folder.is_dir():
        pytest.skip("the real data is not here: set GREENPEA_DATA to its folder")
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small disk: what is called with ``size=400k`` or ``ro`` makes it so, and returns its folder; or a skip."""
    place = tmp_path / "kleine Platte é"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True).returncode:
        pytest.skip("a disk cannot be mounted here: that is root's to do")

    def make(option: str) -> Path:
        subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True)
        return place

    yield make
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server, or a skip where there is none to start."""
    with postgres_server() as url:
        if url is None:
            pytest.skip("PostgreSQL is not installed: install it, or set GREENPEA_TEST_POSTGRES to a server's URL")
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new, empty database: the test runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.sqlite'}"
        return
    url = new_database(request.getfixturevalue("postgres"))
    yield url
    drop_database(url)


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    """A new store, on SQLite and on PostgreSQL."""
    opened = Store.open(database)
    yield opened
    opened.close()
