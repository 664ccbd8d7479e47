"""A small campaign to run rounds on: simulated opinions, linear in embeddings that need no picture."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from greenpea.campaign import Campaign
from greenpea.settings import Settings
from greenpea.site.opening import fill, open_store
from greenpea.store import SentClassification, Store, Stream
from greenpea.workflow import Workflow
from site_hands import make_campaign

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LENGTH = 12  # numbers in an embedding
SETTINGS = (
    "site.audit_share=0.15",
    "site.audit=0.1",
    "site.reference_share=0",
    "loop.folds=3",
    "loop.draws=12",
    "loop.reserve=12",
    "loop.audit_votes=150",
    "loop.report=false",
)
TREE = {
    "name": "small",
    "version": "1.0",
    "questions": [
        {
            "slug": "shape",
            "text": {"en": "Shape?"},
            "answers": [
                {"slug": "disk", "text": {"en": "disk"}, "next": "bar"},
                {"slug": "smooth", "text": {"en": "smooth"}},
            ],
        },
        {
            "slug": "bar",
            "text": {"en": "Bar?"},
            "answers": [{"slug": "yes", "text": {"en": "yes"}}, {"slug": "no", "text": {"en": "no"}}],
        },
    ],
}


def workflow(limit: int = 20, rules: Sequence[dict[str, object]] = ()) -> Workflow:
    retirement = [{"rule": "count", "classifications": limit}, *rules]
    return Workflow.from_json(json.dumps(TREE | {"retirement": retirement}))


class Opinions:
    """Embeddings of s00, s01, …, and the chance of a disk and of a bar, linear in them."""

    def __init__(self, subjects: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.embeddings = rng.normal(size=(subjects, LENGTH)).astype(np.float32)
        logits = self.embeddings @ rng.normal(size=(LENGTH, 2)) * 0.7
        self.disk, self.bar = (1 / (1 + np.exp(-logits))).T
        self.rng = rng

    def annotate(self, subject: int) -> dict[str, list[str]]:
        if self.rng.random() > self.disk[subject]:
            return {"shape": ["smooth"]}
        return {"shape": ["disk"], "bar": ["yes" if self.rng.random() < self.bar[subject] else "no"]}


def make(folder: Path, subjects: int = 90, chosen: Workflow | None = None, settings: Sequence[str] = ()) -> Campaign:
    """Return a campaign whose subjects s00, … have their embeddings already."""
    make_campaign(folder, subjects, chosen or workflow(), settings=(*SETTINGS, *settings))
    return Campaign.open(folder)


def opened(campaign: Campaign, database: str | None = None) -> Store:
    """Return the campaign's store, filled."""
    settings = Settings.load(campaign.folder / "campaign.toml")
    store = open_store(campaign.folder, database, settings)
    fill(store, campaign.folder, settings, NOW)
    return store


def vote(store: Store, opinions: Opinions, volunteers: int, each: int = 10, stream: Stream | None = None) -> None:
    """Let new volunteers classify what the queue hands them; ``stream``: say that all of it came by that one."""
    for _ in range(volunteers):
        one = store.people.anonymous(NOW)
        handed = store.queue.next(one.id, each, NOW, opinions.rng)
        sent = [
            SentClassification(
                str(uuid.UUID(bytes=opinions.rng.bytes(16), version=4)),
                hand.volunteer,
                hand.subject.id,
                hand.version,
                opinions.annotate(int(hand.subject.subject_id[1:])),
                hand.id,
                stream or hand.stream,
                hand.round,
                hand.probability,
            )
            for hand in handed
        ]
        store.classifications.submit(sent, NOW)
