"""How often one may change something: token buckets, in this process's memory."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from math import ceil
from threading import Lock

from fastapi import HTTPException, Request

from greenpea.site.context import site_of
from greenpea.site.identity import credentials, own

CROWD = 20  # so many volunteers may share one address: a classroom, an institute


class Buckets:
    """Token buckets by key: ``burst`` at once, filled again within ``seconds``. Bounded: the longest unused go first.

    Each is kept as one number, the time at which it will be full again (the generic cell rate algorithm).
    """

    def __init__(self, burst: int, seconds: float, most: int = 20_000) -> None:
        self.seconds, self.each, self.most = seconds, seconds / burst, most
        self.full_at: OrderedDict[str, float] = OrderedDict()
        self.lock = Lock()

    def take(self, key: str, now: float) -> float:
        """Take one and return 0, or return the seconds until there is one; ``now`` in seconds since any moment."""
        with self.lock:
            full_at = max(self.full_at.get(key, now), now) + self.each
            wait = full_at - now - self.seconds
            if wait > 1e-6:
                return wait
            self.full_at[key] = full_at
            self.full_at.move_to_end(key)
            if len(self.full_at) > self.most:
                self.full_at.popitem(last=False)
        return 0.0

    def fill(self, key: str) -> None:
        """Let a key begin anew."""
        with self.lock:
            self.full_at.pop(key, None)


class Limits:
    """How often one may change something, kept in this process.

    A volunteer known by our signature has ``per_minute`` of their own, so that a classroom behind one address is not
    shut out; the address as a whole has `CROWD` times that. Who is not known yet shares ``per_minute`` with everybody
    unknown at that address: identities cannot be made faster than that. Guessing and mailing have tighter limits.
    """

    def __init__(self, per_minute: int) -> None:
        self.volunteer = Buckets(per_minute, 60)
        self.crowd = Buckets(per_minute * CROWD, 60)
        self.stranger = Buckets(per_minute, 60)
        self.tight = {"sign-in": Buckets(30, 60), "join": Buckets(60, 3600), "reset": Buckets(10, 600)}
        self.names = Buckets(10, 600)

    def take(self, request: Request) -> None:
        """Count a request. Raises 429 where it is one too many."""
        now, address = now_of(request), address_of(request)
        kind = _kind(own(request).partition("?")[0])
        if kind in self.tight:
            refuse(self.tight[kind].take(address, now))
        if (signed := next(credentials(request), None)) is None:
            refuse(self.stranger.take(address, now))
        else:
            refuse(self.volunteer.take(f"{signed.kind} {signed.value}", now))
            refuse(self.crowd.take(address, now))


def address_of(request: Request) -> str:
    """Return whose requests are counted together: an address, or the 64 bits of an IPv6 network.

    It is the connection's; a proxy's word about it counts where the server was told to trust that proxy.
    """
    host = request.client.host if request.client else "local"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host


def _kind(path: str) -> str:
    """Return the first part of a path: what the tight limits are known by."""
    return "sign-in" if path == "/api/v1/sessions" else path.strip("/").partition("/")[0]


def now_of(request: Request) -> float:
    """Return the site's time in seconds."""
    return site_of(request).clock().timestamp()


def refuse(wait: float) -> None:
    """Raise 429 where there are seconds to wait."""
    if wait > 0:
        raise HTTPException(429, headers={"Retry-After": str(ceil(wait))})
