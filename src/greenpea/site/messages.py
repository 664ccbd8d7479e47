"""What the API takes and answers: the models that check what is sent, and say in OpenAPI what comes back.

Everything is bounded: lengths, counts, sizes. Keys that are not known are left out, so that an outbox filled by
a later version of the page can still be emptied.
"""

from __future__ import annotations

import json
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field

from greenpea.errors import GreenpeaError
from greenpea.site import tickets
from greenpea.store import Role

METADATA_BYTES = 8000


# ---- what may be sent ----------------------------------------------------------------------------------


def _small_plain_json(values: dict[str, Any]) -> dict[str, Any]:
    """Refuse what a database's JSON cannot hold (NaN, NUL, half a character), and what is too much of it."""
    try:
        text = json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise GreenpeaError("metadata must be plain JSON: no NaN, no infinity, whole characters, few levels") from error
    if len(text) > METADATA_BYTES:
        raise GreenpeaError(f"metadata has {len(text)} bytes as JSON: send at most {METADATA_BYTES}")
    if b"\\u0000" in text:
        raise GreenpeaError("metadata must not contain the character NUL: leave it out")
    return values


def _refuse_nul(text: str) -> str:
    if "\0" in text:
        raise GreenpeaError("it must not contain the character NUL: leave it out")
    return text


Slug = Annotated[str, Field(max_length=200)]
Plain = Annotated[str, AfterValidator(_refuse_nul)]
TicketText = Annotated[
    str, Field(max_length=tickets.LONGEST, description="as the hand-out gave it; it names subject and volunteer")
]
Uuid = Annotated[
    UUID, Field(description="made by the client, once per classification: sending it again counts nothing")
]
Answers = Annotated[list[Slug], Field(max_length=100)]
Given = Annotated[
    dict[Slug, Answers],
    Field(
        max_length=200,
        description="question → the answers given, for every question reached: exactly one where it is `single`",
        examples=[{"smooth-or-featured": ["smooth"], "how-rounded": ["round"], "merging": ["none"]}],
    ),
]


class NextRequest(BaseModel):
    """How many subjects to hand out."""

    count: int = Field(1, ge=1, le=10, description="so many, or as many as are left", examples=[3])
    holding: list[TicketText] | None = Field(
        None,
        max_length=20,
        description="the tickets still to be classified: what else was handed out and not classified comes again first",
    )


class NewClassification(BaseModel):
    """One volunteer's whole pass over one subject."""

    uuid: Uuid
    ticket: TicketText
    annotations: Given
    started_at: AwareDatetime | None = Field(
        None, description="when the image was shown, by the client's clock, with its time zone; implausible: left out"
    )
    finished_at: AwareDatetime | None = Field(None, description="when the last answer was given; likewise")
    metadata: Annotated[dict[str, Any], AfterValidator(_small_plain_json)] = Field(
        default_factory=dict,
        description=f"anything else worth keeping, up to {METADATA_BYTES} bytes as JSON",
        examples=[{"viewport": [1280, 720], "language": "en"}],
    )


class NewFind(BaseModel):
    """“This is unusual.”"""

    uuid: Uuid
    ticket: TicketText
    comment: Plain = Field("", max_length=2000, description="what is unusual, in the volunteer's words")


class SignIn(BaseModel):
    """Who signs in."""

    name: Plain = Field(min_length=1, max_length=200)
    password: Plain = Field(min_length=1, max_length=1000)


# ---- what is answered ----------------------------------------------------------------------------------


class Problem(BaseModel):
    """What went wrong, and the remedy."""

    detail: str = Field(examples=["question 'bar' has no answer 'stong' (did you mean 'strong'?)"])


class HandedSubject(BaseModel):
    """One subject for one volunteer."""

    ticket: str = Field(description="send it with the classification")
    subject_id: str
    images: list[str] = Field(description="paths on this site", examples=[["/images/12/0"]])
    version: str = Field(description="the workflow's version to classify it on", examples=["1.0"])
    expires_at: AwareDatetime = Field(description="until then the place is kept; later classifications count as well")


class VersionName(BaseModel):
    """Which version of the workflow."""

    id: int
    number: str = Field(examples=["1.0"])


class NextAnswer(BaseModel):
    """Subjects handed out, best first."""

    subjects: list[HandedSubject]
    exhausted: bool = Field(description="true: this volunteer has seen every subject there is")
    version: VersionName = Field(description="the active version; where it is new, fetch the workflow again")


class FeedbackAnswer(BaseModel):
    """How the answers compare with what is known of a subject."""

    right: bool = Field(description="whether every known question on the expected walk was answered as known")
    at: str | None = Field(description="the question at which they part, or null")
    text: str
    known: dict[str, list[str]] = Field(description="question → known answers")


class ReceiptAnswer(BaseModel):
    """What became of a classification. It is sent after the commit."""

    uuid: UUID
    counted: str = Field(
        description="`counted`; or why not: `undone` by the volunteer, `repeated` (they had one on this subject), "
        "`banned`, `gold` (for training, its answer is known)",
        examples=["counted"],
    )
    again: bool = Field(description="this uuid was stored before: nothing was counted now")
    after_retirement: bool = Field(description="counted, though the subject had retired")
    retired: str | None = Field(description="why the subject retired, if this classification did it")
    feedback: FeedbackAnswer | None = Field(description="where the subject's answer is known")


class WorkflowAnswer(BaseModel):
    """A version of the workflow: its questions, and what to tell volunteers, as Markdown by language."""

    id: int
    number: str
    active: bool
    languages: list[str]
    tree: dict[str, Any] = Field(description="the decision tree: `first`, and `questions` with their `answers`")
    tutorial: dict[str, str]
    guide: dict[str, str]


class SubjectAnswer(BaseModel):
    """A subject. The team sees all its metadata, its votes and whether it has retired; volunteers do not."""

    subject_id: str
    images: list[str]
    metadata: dict[str, Any]
    classifications: int | None = None
    votes: dict[str, int] | None = None
    retired: str | None = None


class MeAnswer(BaseModel):
    """Whom the cookie or the token stands for."""

    public: str = Field(description="the random name under which classifications are exported")
    name: str | None
    role: Role
    classifications: int
    banned: bool


class TokenAnswer(BaseModel):
    """A token: send it as ``Authorization: Bearer <token>``."""

    token: str


class FindAnswer(BaseModel):
    """A find as it is kept."""

    uuid: UUID
    subject_id: str
    comment: str
