"""What goes in and out: how to import, and what can be exported."""

from __future__ import annotations

import shlex

from fastapi import APIRouter, Request
from starlette.responses import Response

from greenpea.site.context import site_of
from greenpea.site.team.common import Scientist, team_page
from greenpea.store import Stream

router = APIRouter(prefix="/team")

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
    """What was imported, and how to import."""
    site = site_of(request)
    return team_page(
        request,
        "imports.html",
        person,
        "/team/imports",
        folder=shlex.quote(site.folder.name),
        subjects=site.store.subjects.count(),
        imported=site.store.statistics.by_stream().get(Stream.IMPORT, 0),
        versions=len(site.store.workflows.all()),
    )
