"""What the store takes and returns: plain frozen values, never rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from greenpea.classifications import Annotations, Tally
from greenpea.workflow import Workflow


class Role(StrEnum):
    """What a person may do; each role may do what those before it may."""

    VOLUNTEER = "volunteer"
    MODERATOR = "moderator"  # hides comments, bans volunteers
    SCIENTIST = "scientist"  # sees everything, edits the workflow, exports
    OWNER = "owner"  # gives roles

    def at_least(self, other: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(other)


class Stream(StrEnum):
    """How a subject was chosen for a volunteer."""

    RANK = "rank"  # by the ranks of the active round
    RANDOM = "random"
    AUDIT = "audit"  # the small share that judges models; chosen at random
    GOLD = "gold"  # its answer is known; for training volunteers
    IMPORT = "import"  # classified elsewhere
    DIRECT = "direct"  # the volunteer asked for this subject


class Counted(StrEnum):
    """Whether a stored classification is part of the counts, and if not, why."""

    YES = "counted"
    UNDONE = "undone"  # by the volunteer
    REPEATED = "repeated"  # the volunteer had one on this subject already
    BANNED = "banned"  # the volunteer was banned, and recounted without
    GOLD = "gold"  # the subject's answer is known: for training, not for votes


@dataclass(frozen=True)
class Volunteer:
    """A person who classifies. Without a ``name`` they have not signed up."""

    id: int
    public: str  # a random UUID: what tickets, cookies and exports carry
    name: str | None = None
    role: Role = Role.VOLUNTEER
    created_at: datetime | None = None
    banned_at: datetime | None = None
    language: str = "en"
    credited: bool = True  # named on the credits page
    email: str | None = None
    count: int = 0  # classifications counted or trained with, undone ones not
    source: str | None = None  # where an imported volunteer comes from, such as "zooniverse:ada"

    @property
    def anonymous(self) -> bool:
        return self.name is None

    @property
    def shown(self) -> str:
        """The name others see."""
        return self.name or self.source or f"not-logged-in-{self.public[:8]}"


@dataclass(frozen=True)
class Version:
    """A published workflow. Votes stay with the ``major`` version they were cast on; minor changes keep them."""

    id: int
    major: int
    minor: int
    workflow: Workflow
    created_at: datetime
    author: str | None
    active: bool

    @property
    def number(self) -> str:
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True)
class NewSubject:
    """A subject to add. ``images`` are keys by which the site finds the pictures: one or more."""

    subject_id: str
    images: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    gold: Annotations | None = None  # the known answers, on the walk through the tree as far as they are known


@dataclass(frozen=True)
class Subject:
    """A subject with where it stands in the active workflow."""

    id: int
    subject_id: str
    images: tuple[str, ...]
    metadata: Mapping[str, Any]
    audit: bool
    gold: Annotations | None
    classifications: int
    tally: Tally
    retired_at: datetime | None
    reason: str | None


@dataclass(frozen=True)
class HandOut:
    """One subject handed to one volunteer: a lease until ``expires_at``, and how it was chosen."""

    id: int
    volunteer: int
    subject: Subject
    version: int  # Version.id
    stream: Stream
    round: int | None
    probability: float | None  # of being chosen, given the stream
    handed_at: datetime
    expires_at: datetime


@dataclass(frozen=True)
class SentClassification:
    """A classification as it arrives. ``uuid`` is made by the client: sending it again counts nothing."""

    uuid: str
    volunteer: int  # Volunteer.id, as the hand-out said: the identity it was cast under
    subject: int  # Subject.id
    version: int  # Version.id
    annotations: Annotations
    handout: int | None = None
    stream: Stream = Stream.DIRECT
    round: int | None = None
    probability: float | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Receipt:
    """What became of a classification that was sent. Sent only after the commit."""

    uuid: str
    counted: Counted | None  # None: refused, and not stored
    again: bool = False  # this uuid was stored before
    after_retirement: bool = False  # counted, though the subject had retired
    retired: str | None = None  # the reason, where this classification retired the subject
    error: str | None = None  # why it was refused
    gold: Annotations | None = None  # the known answers, where there are any: to give feedback


@dataclass(frozen=True)
class Stored:
    """A classification as it is kept."""

    id: int
    uuid: str
    subject_id: str
    subject: int
    volunteer: Volunteer
    version: str
    annotations: Annotations
    counted: Counted
    after_retirement: bool
    stream: Stream
    round: int | None
    probability: float | None
    started_at: datetime | None
    finished_at: datetime | None
    received_at: datetime
    metadata: Mapping[str, Any]


@dataclass
class ImportReport:
    """What became of classifications made elsewhere; every one is in exactly one of these."""

    stored: int = 0  # and counted
    again: int = 0  # here already
    repeated: int = 0  # a second one of the same volunteer on the same subject: kept, not counted
    gold: int = 0  # on a subject whose answer is known: kept, not counted
    strangers: list[tuple[str, str]] = field(default_factory=list)  # (uuid, subject id): no such subject here
    refused: list[tuple[str, str]] = field(default_factory=list)  # (uuid, why)


@dataclass(frozen=True)
class VolunteerRow:
    """A line of the list of volunteers. ``agreement``: mean share of the others who gave the same answer."""

    volunteer: Volunteer
    classifications: int
    last_at: datetime | None
    agreement: float | None


@dataclass(frozen=True)
class Overview:
    """Where the active workflow stands."""

    subjects: int  # without those whose answer is known: they never retire
    gold: int  # subjects whose answer is known
    retired: int
    by_reason: Mapping[str, int]
    classifications: int  # stored, whatever became of them
    counted: int
    uncounted: Mapping[str, int]  # why not → how many
    after_retirement: int
    volunteers: int  # who classified at least once
    signed_in: int
    open_handouts: int
    finds: int
    last_hour: int  # classifications received at any version, without those imported or taken back
    last_day: int
    outstanding: int | None  # classifications until every open subject has its full count; None: there is none


@dataclass(frozen=True)
class Round:
    """One active-learning round's ranks, as published to the queue."""

    id: int
    created_at: datetime
    model: str  # its hash
    seed: int
    settings: Mapping[str, Any]
    subjects: int
    active: bool


@dataclass(frozen=True)
class Find:
    """Something unusual that a volunteer pointed out."""

    id: int
    uuid: str
    subject_id: str
    subject: int
    volunteer: Volunteer
    comment: str
    created_at: datetime
    hidden: bool
    likes: int = 0
    liked: bool = False  # by the one who looks
