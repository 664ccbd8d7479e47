"""The workflow: drawn, in words, its versions; a new one is checked, previewed and published."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, HTTPException, Request, UploadFile
from starlette.responses import Response

from greenpea.errors import GreenpeaError
from greenpea.site.context import Site, site_of
from greenpea.site.security import protected
from greenpea.site.team import words
from greenpea.site.team.common import Scientist, go, team_page
from greenpea.site.team.outline import changes, outline
from greenpea.site.team.uploads import MOST_BYTES, Upload, read, seal, unseal
from greenpea.store import Version, Volunteer

router = APIRouter(prefix="/team/workflow")
SECTION = "/team/workflow"


@router.get("")
def workflow(request: Request, person: Scientist, version: str = "") -> Response:
    """The active version, or another."""
    return _workflow_page(request, person, version)


@router.get("/{number}.json")
def download(request: Request, person: Scientist, number: str) -> Response:
    """A version as its file."""
    version = _version(site_of(request), number)
    name = f"workflow-{version.number}.json"
    return Response(
        version.workflow.to_json(),
        media_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
    )


@router.post("/preview", dependencies=[Depends(protected)])
def preview(
    request: Request,
    person: Scientist,
    file: Annotated[UploadFile | None, File()] = None,
    pasted: Annotated[str, Form()] = "",
    version: Annotated[str, Form()] = "",
) -> Response:
    """Check a workflow that was uploaded, pasted or taken from an older version; show what publishing it would do."""
    site = site_of(request)
    try:
        upload = _given(site, file, pasted, version)
    except GreenpeaError as error:
        faults = str(error).splitlines()
        return _workflow_page(request, person, faults=faults, pasted=pasted, status=422)
    return _preview_page(request, person, upload)


@router.post("/publish", dependencies=[Depends(protected)])
def publish(request: Request, person: Scientist, sealed: Annotated[str, Form()] = "") -> Response:
    """Publish what a preview showed, unless another version has become active meanwhile."""
    site = site_of(request)
    try:
        new, over = unseal(site.secret, sealed)
    except GreenpeaError as error:
        return _workflow_page(request, person, faults=[str(error)], status=422)
    active = site.store.workflows.active()
    if active.workflow == new:
        return go(request, SECTION, did="same")
    if active.id != over:
        error_text = "Somebody else has published another version since this preview was made. Look at it again."
        return _preview_page(request, person, Upload(new), status=409, error=error_text)
    try:
        site.store.workflows.publish(new, site.clock(), author=person.name)
    except GreenpeaError as error:
        return _preview_page(request, person, Upload(new), status=409, error=str(error))
    return go(request, SECTION, did="published")


def _given(site: Site, file: UploadFile | None, pasted: str, version: str) -> Upload:
    if version:
        return Upload(_version(site, version).workflow)
    if file is not None and file.filename:
        return read(file.file.read(MOST_BYTES + 1), file.filename)
    return read(pasted.encode("utf-8", "surrogatepass"), "the workflow")


def _version(site: Site, number: str) -> Version:
    """Return the version of a number such as ``"2.1"``. Raises 404 where there is none."""
    for version in site.store.workflows.all():
        if version.number == number:
            return version
    raise HTTPException(404, "There is no such version of the workflow.")


def _workflow_page(
    request: Request,
    person: Volunteer,
    number: str = "",
    faults: list[str] | None = None,
    pasted: str = "",
    status: int = 200,
) -> Response:
    site = site_of(request)
    shown = _version(site, number) if number else site.store.workflows.active()
    return team_page(
        request,
        "workflow.html",
        person,
        SECTION,
        status,
        version=shown,
        versions=site.store.workflows.all(),
        entries=outline(shown.workflow.tree),
        rules=words.rules(shown.workflow.retirement, shown.workflow.tree),
        faults=faults or [],
        pasted=pasted,
        now=site.clock(),
    )


def _preview_page(
    request: Request, person: Volunteer, upload: Upload, status: int = 200, error: str | None = None
) -> Response:
    site = site_of(request)
    active, new = site.store.workflows.active(), upload.workflow
    return team_page(
        request,
        "preview.html",
        person,
        SECTION,
        status,
        active=active,
        new=new,
        notes=upload.notes,
        consequences=site.store.workflows.consequences(new),
        changes=changes(active.workflow, new),
        entries=outline(new.tree),
        rules=words.rules(new.retirement, new.tree),
        sealed=seal(site.secret, new, active.id),
        error=error,
    )
