"""Letters by e-mail: only where the operator has named a server, and the address under which the site is known.

``GREENPEA_SMTP``       ``smtp://user:password@host:587`` (encrypted as soon as the server offers it, always where there
                        is a password) or ``smtps://…:465``
``GREENPEA_URL``        the site's public address; links in letters begin with it, never with what a request claims
``GREENPEA_MAIL_FROM``  the sender; by default the user, or greenpea@host
"""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from urllib.parse import SplitResult, unquote, urlsplit

from greenpea.errors import GreenpeaError

PATIENCE = 20.0  # seconds for the mail server to answer
ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\\]{1,64}@[^\s@<>,;:\"()\[\]\\]{1,189}")


@dataclass(frozen=True)
class Mailer:
    """A mail server, the sender, and the address under which the site is known."""

    server: SplitResult
    sender: str
    site: str

    def send(self, to: str, subject: str, text: str) -> None:
        """Send a letter of plain text. Raises OSError or smtplib.SMTPException where the server does not take it."""
        letter = EmailMessage()
        letter["From"], letter["To"], letter["Subject"] = self.sender, to, subject
        letter.set_content(text)
        context, host, port = ssl.create_default_context(), self.server.hostname or "", self.server.port
        if self.server.scheme == "smtps":
            with smtplib.SMTP_SSL(host, port or 465, timeout=PATIENCE, context=context) as connection:
                self._deliver(connection, letter)
            return
        with smtplib.SMTP(host, port or 25, timeout=PATIENCE) as connection:
            connection.ehlo()
            if self.server.password or connection.has_extn("starttls"):
                connection.starttls(context=context)
            self._deliver(connection, letter)

    def _deliver(self, connection: smtplib.SMTP, letter: EmailMessage) -> None:
        if self.server.username and self.server.password:
            connection.login(unquote(self.server.username), unquote(self.server.password))
        connection.send_message(letter)


def mailer(environment: Mapping[str, str]) -> Mailer | None:
    """Return the mailer that the environment describes, None where it names no server.

    Raises GreenpeaError where it is half described.
    """
    if not (url := environment.get("GREENPEA_SMTP", "")):
        return None
    server = urlsplit(url)
    site = environment.get("GREENPEA_URL", "").rstrip("/")
    if server.scheme not in ("smtp", "smtps") or not server.hostname:
        raise GreenpeaError("GREENPEA_SMTP must look like smtp://user:password@host:587 or smtps://user:password@host")
    if not site.startswith(("https://", "http://")):
        raise GreenpeaError("GREENPEA_SMTP is set: set GREENPEA_URL as well, to the site's address for links")
    user = unquote(server.username or "")
    sender = environment.get("GREENPEA_MAIL_FROM") or (user if "@" in user else f"greenpea@{server.hostname}")
    return Mailer(server, sender, site)


def is_address(text: str) -> bool:
    """Whether a text can be an e-mail address; only a letter that arrives proves that it is one."""
    return ADDRESS.fullmatch(text) is not None and text.isprintable()
