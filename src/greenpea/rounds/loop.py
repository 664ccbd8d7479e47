"""The loop: rounds whenever enough votes or time have passed, beside the site, in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from greenpea.campaign import Campaign
from greenpea.records import Record
from greenpea.rounds.steps import Report, run
from greenpea.store import Store

POLLED = 2.0  # seconds between two looks at the store


def loop(
    campaign: Campaign,
    store: Store,
    told: Callable[[Record], None],
    report: Report = lambda stage, share, words: None,
    stop: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Run rounds until ``stop``: first what was interrupted, then whenever enough is new. ``told`` gets each.

    Enough is ``loop.classifications`` new ones, or any after ``loop.minutes``. Between rounds it looks at one index
    every `POLLED` seconds.
    """
    chosen = campaign.settings.loop
    seen, last = -1, clock()
    while not stop():
        newest = store.standings.newest()
        waited = (clock() - last).total_seconds() / 60
        if seen < 0 or newest - seen >= chosen.classifications or (newest > seen and waited >= chosen.minutes):
            record = run(campaign, store, clock, report)
            seen, last = newest, clock()
            if record is not None:
                told(record)
        else:
            sleep(POLLED)
