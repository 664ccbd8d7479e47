"""How the campaign goes: numbers, votes and retirement over time, and when it will end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Request
from markupsafe import Markup
from starlette.responses import Response

from greenpea.site import charts
from greenpea.site.context import Site, site_of
from greenpea.site.identity import person
from greenpea.site.team import words
from greenpea.site.team.common import Moderator, go, team_page
from greenpea.site.team.forecast import Forecast, forecast, last_days
from greenpea.store import Counted, Overview, Role, Stream, Volunteer

router = APIRouter(prefix="/team")

Counts = list[tuple[datetime, int, int]]  # start of the interval, classifications, subjects retired
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SEED = 20070711  # of the forecast: the same numbers give the same interval


@dataclass(frozen=True)
class Range:
    """A stretch of time as the charts show it: ``bins`` intervals of ``step``, the last one holding the present."""

    name: str
    words: str
    step: timedelta
    bins: int

    def starts(self, now: datetime) -> list[datetime]:
        """Return where the intervals begin: at full hours or midnights, UTC."""
        now = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        end = now + HOUR if self.step < DAY else now.replace(hour=0) + DAY
        return [end - self.step * (self.bins - i) for i in range(self.bins)]


RANGES = {
    one.name: one
    for one in (
        Range("hour", "48 hours", HOUR, 48),
        Range("day", "30 days", DAY, 30),
        Range("week", "26 weeks", timedelta(weeks=1), 26),
    )
}


@router.get("")
def progress(request: Request, person: Moderator, by: str = "hour") -> Response:
    """The first page of the team; a moderator is led to what they look after."""
    if not person.role.at_least(Role.SCIENTIST):
        return go(request, "/team/volunteers")
    site = site_of(request)
    now, span = site.clock(), RANGES.get(by, RANGES["hour"])
    overview = site.store.statistics.overview(now)
    counts = counted_in(site, span, now)
    return team_page(
        request,
        "progress.html",
        person,
        "/team",
        **numbers(overview, now),
        ranges=RANGES.values(),
        span=span,
        counts=counts,
        charts=drawn(counts, overview, span),
        forecast=expected(site, overview, now),
        streams=[
            (words.STREAMS[Stream(name)], words.STREAM_MEANINGS[Stream(name)], count)
            for name, count in site.store.statistics.by_stream().items()
        ],
    )


@router.get("/numbers")
def refreshed(request: Request, someone: Annotated[Volunteer | None, Depends(person)]) -> Response:
    """The numbers alone, as the page asks for them again and again.

    Whoever has been signed out meanwhile gets an error, which leaves the page as it is, and not the sign-in page.
    """
    if someone is None or someone.banned_at or not someone.role.at_least(Role.SCIENTIST):
        raise HTTPException(403)
    site = site_of(request)
    now = site.clock()
    overview = site.store.statistics.overview(now)
    return team_page(request, "numbers.html", someone, **numbers(overview, now))


def numbers(overview: Overview, now: datetime) -> dict[str, Any]:
    """Return what the template of the numbers shows."""
    reasons = sorted(overview.by_reason.items(), key=lambda item: (-item[1], item[0]))
    parts = [(words.reason(reason), count) for reason, count in reasons]
    return {
        "now": now,
        "overview": overview,
        "reasons": [(reason, words.reason(reason), count) for reason, count in reasons],
        "retired_bar": charts.stack(parts, overview.subjects),
        "uncounted": [(words.COUNTED[Counted(why)], count) for why, count in overview.uncounted.items() if count],
    }


def counted_in(site: Site, span: Range, now: datetime) -> Counts:
    """Return classifications and retirements in each interval of a range, those with none included."""
    starts = span.starts(now)
    statistics = site.store.statistics
    counted = statistics.per_hour if span.step < DAY else statistics.per_day
    classified, retired = [0] * span.bins, [0] * span.bins
    for start, classifications, retirements in counted(starts[0], starts[-1] + span.step, imported=False):
        if 0 <= (i := (start - starts[0]) // span.step) < span.bins:
            classified[i] += classifications
            retired[i] += retirements
    return list(zip(starts, classified, retired, strict=True))


def drawn(counts: Counts, overview: Overview, span: Range) -> list[Markup]:
    """Return the charts of a range: classifications received, subjects retired, and how many are retired by then."""
    starts = [start for start, _, _ in counts]
    retired = [number for _, _, number in counts]
    before = max(0, overview.retired - sum(retired))
    standing = list(accumulate(retired, initial=before))[1:]
    each = f"in each {span.name}"
    return [
        charts.bars(
            "received", f"Classifications {each}", starts, [n for _, n, _ in counts], span.step, "classifications"
        ),
        charts.line("standing", "Retired in all", starts, standing, span.step, "subjects retired", overview.subjects),
        charts.bars("retired", f"Subjects retired {each}", starts, retired, span.step, "subjects retired"),
    ]


def expected(site: Site, overview: Overview, now: datetime) -> Forecast | str:
    """Return when every subject will have been classified to the full count, or why that cannot be told."""
    if overview.subjects == 0:
        return "There are no subjects yet."
    if overview.retired >= overview.subjects:
        return "Every subject is retired."
    if overview.outstanding is None:
        return "The workflow has no full count after which a subject retires, so there is no end to tell."
    began = min(version.created_at for version in site.store.workflows.all())
    hours = site.store.statistics.per_hour(max(began - HOUR, now - 15 * DAY), now, imported=False)
    # What was undone, repeated or came after retirement brings the end no nearer.
    useful = (overview.counted - overview.after_retirement) / max(overview.classifications, 1)
    days = last_days([(start, count) for start, count, _ in hours], now, began)
    told = forecast([round(useful * count) for count in days], overview.outstanding, np.random.default_rng(SEED))
    return told or "Too little to tell: a forecast takes at least four whole days with classifications among them."
