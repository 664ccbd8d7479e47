"""The loop: rounds whenever enough votes or time have passed, beside the site, in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from greenpea.campaign import Campaign
from greenpea.errors import GreenpeaError
from greenpea.records import Record, Tuning
from greenpea.rounds import tuning
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
    tuned: Callable[[Tuning], None] = lambda tuning: None,
) -> None:
    """Run rounds until ``stop``: first what was interrupted, then whenever enough is new. ``told`` gets each.

    Enough is ``loop.classifications`` new ones, or any after ``loop.minutes``. Between rounds it looks at one index
    every `POLLED` seconds. With ``loop.tune`` the encoder is tuned after a round that reached a milestone; ``tuned``
    gets the verdict, and if it takes over, the next round comes at once.
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
            if tuning.due(campaign) and (one := _tune(campaign, store, clock, report)):
                tuned(one)
                seen = -1 if one.took_over else seen
        else:
            sleep(POLLED)


def _tune(campaign: Campaign, store: Store, clock: Callable[[], datetime], report: Report) -> Tuning | None:
    """Tune, unless it cannot be now: another process does so, or votes of the audit set were taken back."""
    try:
        return tuning.run(campaign, store, clock, report)
    except GreenpeaError:
        return None
