"""A client of Greenpea's sites: for scripts, and for volunteers who are simulated.

    with Client.anonymous("http://localhost:8000") as client:
        tree = client.workflow()
        for handed in client.next(10):
            client.classify(handed, walk(tree, lambda question: question.answer_slugs[0]))

What fails on the way is sent again, a classification under the same uuid: it is counted once, however often the
connection breaks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx

from greenpea.classifications import Annotations
from greenpea.errors import GreenpeaError
from greenpea.tree import DecisionTree, Question

TIMEOUT = 30.0  # seconds
LONGEST_WAIT = 60.0  # seconds between two tries


class Refused(GreenpeaError):
    """The site refused a request, and would again; ``status`` is HTTP's."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True)
class Handed:
    """A subject handed out: ``images`` are paths on the site, ``version`` the workflow's it is classified on."""

    ticket: str
    subject_id: str
    images: tuple[str, ...]
    version: str
    expires_at: datetime


@dataclass(frozen=True)
class Feedback:
    """How answers compare with what is known of a subject; ``at`` is the question at which they part, or None."""

    right: bool
    at: str | None
    text: str
    known: Annotations


@dataclass(frozen=True)
class Receipt:
    """What became of a classification. ``counted`` is "counted", or why it was not: "repeated", "gold", …"""

    uuid: str
    counted: str
    again: bool
    after_retirement: bool
    retired: str | None
    feedback: Feedback | None


class Client:
    """One volunteer's connection to a site.

    ``token`` is a bearer token, from `anonymous` or `sign_in`. A request that meets no server, a busy one (429) or
    a broken one (5xx) is repeated up to ``tries`` times, after ``wait`` seconds, then twice as many, and so on, or
    as many as the server asks for (Retry-After). ``http`` is the connection to use, say one to an application in
    the same process; ``sleep`` and ``rng`` are for tests.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        tries: int = 8,
        wait: float = 0.25,
        http: httpx.Client | None = None,
        sleep: Callable[[float], object] = time.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.url, self.token = url.rstrip("/"), token
        self.tries, self.wait = tries, wait
        self._http = http or httpx.Client(timeout=TIMEOUT)
        self._sleep, self._rng = sleep, rng or random.Random()

    @classmethod
    def anonymous(cls, url: str, **options: Any) -> Client:
        """Return a client for a new anonymous volunteer; ``options`` as for `Client`."""
        client = cls(url, **options)
        client.token = client._send("POST", "/volunteers")["token"]
        return client

    def sign_in(self, name: str, password: str) -> None:
        """Be the volunteer with this account from now on. Raises `Refused` where name or password is wrong."""
        self.token = self._send("POST", "/sessions", {"name": name, "password": password})["token"]

    def sign_out(self) -> None:
        """End the session, here and on the site."""
        self._send("DELETE", "/sessions")
        self.token = None

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- classifying -------------------------------------------------------------------------------

    def workflow(self, version: str | None = None) -> DecisionTree:
        """Return the decision tree to walk: the active one, or that of a version such as ``"1.0"``."""
        asked = "" if version is None else f"?version={quote(version, safe='')}"
        return DecisionTree.model_validate(self._send("GET", f"/workflow{asked}")["tree"])

    def next(self, count: int = 1, holding: Iterable[Handed] | None = None) -> list[Handed]:
        """Return up to ``count`` subjects (at most 10) to classify; [] where this volunteer has seen all.

        With ``holding``, the subjects still to be classified, what else was handed out comes again first: after a
        program was interrupted, give [].
        """
        body: dict[str, Any] = {"count": count}
        if holding is not None:
            body["holding"] = [handed.ticket for handed in holding]
        return [_handed(values) for values in self._send("POST", "/next", body)["subjects"]]

    def classify(
        self,
        handed: Handed,
        annotations: Annotations,
        *,
        uuid: str | None = None,
        started_at: datetime | None = None,
        finished_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Receipt:
        """Send a classification and return its receipt; it is stored for good then.

        Every try carries the same ``uuid`` (default: a new one). Raises `Refused` with the reason where it can
        never be taken, and GreenpeaError where the site cannot be reached: send it again later, with its uuid.
        """
        body = {
            "uuid": uuid or str(uuid4()),
            "ticket": handed.ticket,
            "annotations": {question: list(answers) for question, answers in annotations.items()},
            "started_at": started_at and started_at.isoformat(),
            "finished_at": finished_at and finished_at.isoformat(),
            "metadata": dict(metadata or {}),
        }
        return _receipt(self._send("POST", "/classifications", body))

    def undo(self, uuid: str, handed: Handed | None = None) -> Receipt:
        """Take a classification back. ``handed`` names the volunteer who made it (default: this client's)."""
        headers = {"X-Ticket": handed.ticket} if handed else {}
        return _receipt(self._send("DELETE", f"/classifications/{quote(uuid, safe='')}", headers=headers))

    def flag(self, handed: Handed, comment: str = "", *, uuid: str | None = None) -> None:
        """Point out that a subject is unusual."""
        self._send("POST", "/finds", {"uuid": uuid or str(uuid4()), "ticket": handed.ticket, "comment": comment})

    def image(self, path: str) -> bytes:
        """Return a picture's bytes; ``path`` is one of `Handed.images`."""
        return self._try("GET", path, None, {}).content

    # ---- the wire ----------------------------------------------------------------------------------

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        response = self._try(method, f"/api/v1{path}", body, headers or {})
        return response.json() if response.content else None

    def _try(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> httpx.Response:
        """Send until there is an answer that repeating would not change."""
        if self.token is not None:
            headers = {**headers, "Authorization": f"Bearer {self.token}"}
        for number in range(self.tries):
            try:
                response = self._http.request(method, self.url + path, json=body, headers=headers)
            except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise GreenpeaError(
                    f"{self.url!r} is no address of a site: give one like https://example.org"
                ) from error
            except httpx.TransportError as error:
                problem, asked = f"{self.url} cannot be reached: {error}", None
            else:
                if response.is_success:
                    return response
                problem, asked = _detail(response), response.headers.get("retry-after")
                if response.status_code != 429 and response.status_code < 500:
                    raise Refused(response.status_code, problem)
            if number + 1 < self.tries:
                self._sleep(self._pause(number, asked))
        raise GreenpeaError(f"{problem} (tried {self.tries} times)")

    def _pause(self, number: int, asked: str | None) -> float:
        """Return the seconds before the next try: at least what was asked for, never the same for all clients."""
        longest = min(LONGEST_WAIT, self.wait * 2**number)
        drawn = longest * (0.5 + 0.5 * self._rng.random())
        return max(drawn, _seconds(asked))


def walk(tree: DecisionTree, answer: Callable[[Question], str | Iterable[str]]) -> dict[str, list[str]]:
    """Return annotations: ask ``answer`` at each question on the way, for a slug or several, until the tree ends."""
    annotations: dict[str, list[str]] = {}
    slug: str | None = tree.first
    while slug is not None:
        question = tree[slug]
        given = answer(question)
        annotations[slug] = [given] if isinstance(given, str) else list(given)
        if question.kind == "multiple":
            slug = question.next
        elif len(annotations[slug]) == 1:
            slug = question.answer(annotations[slug][0]).next
        else:
            raise GreenpeaError(f"question {slug!r} takes exactly one answer, not {len(annotations[slug])}")
    return annotations


def _handed(values: Mapping[str, Any]) -> Handed:
    expires_at = datetime.fromisoformat(values["expires_at"])
    return Handed(values["ticket"], values["subject_id"], tuple(values["images"]), values["version"], expires_at)


def _receipt(values: Mapping[str, Any]) -> Receipt:
    told = values["feedback"]
    return Receipt(
        uuid=values["uuid"],
        counted=values["counted"],
        again=values["again"],
        after_retirement=values["after_retirement"],
        retired=values["retired"],
        feedback=Feedback(told["right"], told["at"], told["text"], told["known"]) if told else None,
    )


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}: {response.text[:200].strip()}"


def _seconds(asked: str | None) -> float:
    """Return what Retry-After means in seconds: a number, or a date; 0 where it means nothing."""
    if asked is None:
        return 0.0
    if asked.isdecimal():
        return min(float(asked), LONGEST_WAIT)
    try:
        until = parsedate_to_datetime(asked) - datetime.now(UTC)
    except (ValueError, TypeError):
        return 0.0
    return min(max(until.total_seconds(), 0.0), LONGEST_WAIT)
