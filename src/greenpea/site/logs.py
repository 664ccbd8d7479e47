"""Logs: one JSON object a line on standard error, for every request and for what went wrong.

Never in them: bodies, query strings, cookies, and the parts of paths that are secrets.
"""

from __future__ import annotations

import re
import secrets
import sys
import time
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SECRET_PATH = re.compile(r"(?<=/reset/).+|(?<=/join/).+")


class _Stderr:
    """Standard error as it is when a line is written, not as it was when this module was imported."""

    def msg(self, message: str) -> None:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()

    debug = info = warning = error = critical = msg


def _processors() -> Sequence[Any]:
    return (
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    )


log = structlog.wrap_logger(_Stderr(), processors=_processors(), cache_logger_on_first_use=True)


def install(app: FastAPI, quiet: bool = False) -> None:
    """Write a line for every request; ``quiet``: only for those that failed. Install it last, to be outermost."""
    app.add_middleware(RequestLog, quiet=quiet)


class RequestLog:
    """Middleware: gives every request an id, or keeps the proxy's, and writes what became of it."""

    def __init__(self, app: ASGIApp, quiet: bool = False) -> None:
        self.app = app
        self.quiet = quiet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500
        request_id = _request_id(scope)

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_marked)
            except Exception:
                log.error("request", **_facts(scope, 500, start), exc_info=True)
                raise
            if status >= 500 or not self.quiet:
                log.info("request", **_facts(scope, status, start))


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _facts(scope: Scope, status: int, start: float) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "method": scope["method"],
        "path": SECRET_PATH.sub("…", scope["path"]),
        "status": status,
        "ms": round(1000 * (time.perf_counter() - start), 2),
    }
    person = scope.get("state", {}).get("person")  # as `greenpea.site.identity` found it, if it was asked
    return facts if person is None else facts | {"volunteer": person.public[:8]}
