"""What the tests share: the real data where it is at hand, and hypothesis without deadlines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Shapes in annotations are checked at run time in the rooms where axes matter most.
CHECKED = ["greenpea.posterior", "greenpea.information", "greenpea.calibration", "greenpea.catalogue"]
install_import_hook(CHECKED, "beartype.beartype")

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data (``GREENPEA_DATA``, default ``../shared/data`` from the project's root), or a skip."""
    root = Path(__file__).parent.parent
    folder = root / os.environ.get("GREENPEA_DATA", "../shared/data")
    if not folder.is_dir():
        pytest.skip("the real data is not here: set GREENPEA_DATA to its folder")
    return folder
