"""Text in more than one language: the English text is the key, a JSON file per language and room translates it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources

from fastapi import Request

from greenpea.store import Volunteer

LANGUAGES = {"en": "English", "de": "Deutsch", "es": "Español"}  # of the site's own texts


@cache
def translations(language: str) -> dict[str, str]:
    """Return English text → text in ``language``, from every file of ``locales/<language>/``."""
    folder = resources.files("greenpea.site") / "locales" / language
    files = [file for file in folder.iterdir() if file.name.endswith(".json")] if folder.is_dir() else []
    return {key: text for file in files for key, text in json.loads(file.read_text(encoding="utf-8")).items()}


def translator(language: str) -> Callable[..., str]:
    """Return ``t``: an English text, with {named} places, → the text in ``language``, else in English."""
    known = translations(language)

    def t(text: str, **places: object) -> str:
        return known.get(text, text).format(**places) if places else known.get(text, text)

    return t


def chosen_language(request: Request, person: Volunteer | None, offered: Sequence[str]) -> str:
    """Return the language to show: asked for by cookie, by the account, by the browser, else English."""
    known = {*LANGUAGES, *offered}
    cookie = request.cookies.get("language", "")
    if cookie in known:
        return cookie
    if person is not None and person.name and person.language in known:
        return person.language
    for part in request.headers.get("accept-language", "").split(","):
        if (language := part.split(";")[0].split("-")[0].strip().lower()) in known:
            return language
    return "en"
