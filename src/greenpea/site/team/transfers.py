"""What goes in and out: Zooniverse's exports and what the campaign's folder holds; what can be exported."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Annotated

from fastapi import APIRouter, Depends, File, HTTPException, Request, UploadFile
from starlette.responses import FileResponse, Response

from greenpea.errors import GreenpeaError
from greenpea.site.arrivals import LISTS, Arrived, Described, take_classifications, take_subjects
from greenpea.site.context import Site, site_of
from greenpea.site.security import protected
from greenpea.site.team.common import Scientist, team_page
from greenpea.store import Stream, Volunteer
from greenpea.zooniverse import read_classifications, workflow_versions

router = APIRouter(prefix="/team")
SECTION = "/team/imports"
MOST_BYTES = 32_000_000  # of a file that is imported while its sender waits: some 15,000 classifications
SHOWN = 8  # problems listed

EXPORTS = (
    (
        "Every classification",
        (
            (
                "classifications.csv",
                "One row per classification, in the columns of Zooniverse's export, with volunteers' names: read by "
                "panoptes_aggregation.",
            ),
            (
                "classifications.parquet",
                "One row per annotation: the volunteer by public id, subject, question and answer, stream, round, "
                "selection probability, and whether it counts.",
            ),
        ),
    ),
    (
        "Votes per subject",
        (
            (
                "votes.parquet",
                "One row per subject: how many reached each question, and the votes for each answer. What a network "
                "is trained on.",
            ),
            ("votes.csv", "The same as text, for a spreadsheet."),
        ),
    ),
    (
        "Around it",
        (
            ("subjects.csv", "Every subject with its metadata, its count, and when and why it retired."),
            ("finds.csv", "What volunteers found unusual, with their comments and names."),
            (
                "volunteers.csv",
                "One row per volunteer: the public id that the other files carry, the name where there is one, "
                "and counts.",
            ),
        ),
    ),
)


@router.get("/exports")
def exports(request: Request, person: Scientist) -> Response:
    """The files that can be taken away."""
    folder = shlex.quote(site_of(request).folder.name)
    return team_page(request, "exports.html", person, "/team/exports", exports=EXPORTS, folder=folder)


@router.get("/imports")
def imports(request: Request, person: Scientist) -> Response:
    """What was imported, and what can be."""
    return _imports_page(request, person)


@router.post("/imports", dependencies=[Depends(protected)])
def take_in(
    request: Request,
    person: Scientist,
    classifications: Annotated[UploadFile | None, File()] = None,
    workflows: Annotated[UploadFile | None, File()] = None,
    subjects: Annotated[UploadFile | None, File()] = None,
) -> Response:
    """Import Zooniverse's exports: classifications with their workflows, or what is said of the subjects, or both."""
    site = site_of(request)
    try:
        with tempfile.TemporaryDirectory() as folder:
            files = [
                _kept(Path(folder) / str(number), file)
                for number, file in enumerate((classifications, workflows, subjects))
            ]
            described, arrived = _taken(site, *files)
    except GreenpeaError as error:
        return _imports_page(request, person, faults=str(error).splitlines(), status=422)
    return _imports_page(request, person, described=described, arrived=arrived)


@router.post("/imports/folder", dependencies=[Depends(protected)])
def take_from_folder(request: Request, person: Scientist) -> Response:
    """Add what is new in the campaign's folder, as a start of the site would."""
    from greenpea.site.opening import fill  # which puts this application together

    site = site_of(request)
    try:
        filled = fill(site.store, site.folder, site.settings, site.clock())
    except GreenpeaError as error:
        return _imports_page(request, person, faults=str(error).splitlines(), status=422)
    return _imports_page(request, person, filled=filled)


@router.get("/imports/{name}")
def download_list(request: Request, person: Scientist, name: str) -> Response:
    """A list of what an import could not use."""
    found = {path.name: path for path in _lists(site_of(request))}
    if name not in found:
        raise HTTPException(404, "There is no such list.")
    return FileResponse(found[name], media_type="text/csv", filename=name, headers={"Cache-Control": "no-store"})


def _kept(folder: Path, file: UploadFile | None) -> Path | None:
    """Write an upload to a folder under the last part of its own name; None where no file was chosen."""
    if file is None or not file.filename:
        return None
    if (file.size or 0) > MOST_BYTES:
        raise GreenpeaError(
            f"{file.filename[:80]} has {(file.size or 0) / 1e6:.0f} MB; what is sent here has at most "
            f"{MOST_BYTES / 1e6:g} MB: import it by the command line, where the campaign's folder is"
        )
    folder.mkdir()
    stem, ending = PurePosixPath(file.filename.replace("\\", "/")).stem, PurePosixPath(file.filename).suffix
    safe = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in stem)[:60] or "export"
    path = folder / f"{safe}{ending if ending in ('.csv', '.json', '.gz', '.txt') else '.csv'}"
    with path.open("wb") as kept:
        shutil.copyfileobj(file.file, kept)
    return path


def _taken(
    site: Site, classifications: Path | None, workflows: Path | None, subjects: Path | None
) -> tuple[Described | None, Arrived | None]:
    if (classifications is None) != (workflows is None):
        raise GreenpeaError("classifications are read with their workflows: choose both files")
    if classifications is None and subjects is None:
        raise GreenpeaError("no file was chosen: choose classifications and workflows, or subjects, or all three")
    versions = workflow_versions(workflows) if workflows else []
    if classifications:
        read_classifications(classifications, versions)  # a wrong file is told before anything is written
    described = take_subjects(site.store, site.folder, subjects, site.clock()) if subjects else None
    if classifications is None:
        return described, None
    return described, take_classifications(site.store, site.folder, classifications, versions, site.clock())


def _lists(site: Site) -> list[Path]:
    return sorted((site.folder / LISTS).glob("*.csv"))


def _imports_page(
    request: Request,
    person: Volunteer,
    faults: list[str] | None = None,
    status: int = 200,
    **done: object,
) -> Response:
    site = site_of(request)
    return team_page(
        request,
        "imports.html",
        person,
        SECTION,
        status,
        folder=shlex.quote(site.folder.name),
        subjects=site.store.subjects.count(),
        imported=site.store.statistics.by_stream().get(Stream.IMPORT, 0),
        versions=len(site.store.workflows.all()),
        faults=faults or [],
        lists=_lists(site),
        megabytes=MOST_BYTES // 1_000_000,
        most=SHOWN,
        **{"described": None, "arrived": None, "filled": None} | done,
    )
