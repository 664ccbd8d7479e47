"""What goes wrong with what a person gave us, said so that they can mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GreenpeaError(ValueError):
    """Bad input, with the remedy in the message: the command line prints it without a traceback."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest known word, or ``""`` when none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
