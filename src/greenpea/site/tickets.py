"""Tickets: what a volunteer carries from a hand-out to the classification, signed so that nobody can alter it.

A ticket names the identity the classification is cast under, whoever sends it later from an outbox, and is
read without asking the database. It does not expire: late votes are taken, and say that they are late.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

from itsdangerous import BadData, URLSafeSerializer

from greenpea.errors import GreenpeaError
from greenpea.site.context import Site
from greenpea.store import HandOut, Stream

LONGEST = 400  # characters; one with every number at its largest has some 200


@dataclass(frozen=True)
class Ticket:
    """What was handed out, by the store's numbers: `HandOut.id`, `Volunteer.id`, `Subject.id`, `Version.id`."""

    handout: int
    volunteer: int
    subject: int
    version: int
    stream: Stream
    round: int | None
    probability: float | None


def make(site: Site, handout: HandOut) -> str:
    """Return the ticket of a hand-out: URL-safe text, signed by the site's secret."""
    return _serializer(site.secret).dumps(
        [
            handout.id,
            handout.volunteer,
            handout.subject.id,
            handout.version,
            handout.stream.value,
            handout.round,
            handout.probability,
        ]
    )


def read(site: Site, ticket: str) -> Ticket:
    """Return what a ticket says. Raises GreenpeaError where this site did not make it, as it stands."""
    try:
        if len(ticket) > LONGEST:
            raise BadData("too long")
        handout, volunteer, subject, version, stream, round_, probability = _serializer(site.secret).loads(ticket)
        return Ticket(handout, volunteer, subject, version, Stream(stream), round_, probability)
    except (BadData, ValueError) as error:
        raise GreenpeaError(
            "this ticket was not made by this site, or was changed on its way: ask for the next subject again"
        ) from error


@cache
def _serializer(secret: bytes) -> URLSafeSerializer:
    # The salt keeps what is signed here apart from cookies, which the same secret signs.
    return URLSafeSerializer(
        secret, salt=b"greenpea.ticket", signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"}
    )
