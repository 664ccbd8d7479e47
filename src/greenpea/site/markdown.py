"""Markdown from a campaign's workflow as HTML that is safe to show: no HTML of its own, pictures of this site only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

PICTURES = "/pictures/"  # where the files of a campaign's folder are shown
_ATTRIBUTES = {"a": {"href", "title"}, "img": {"src", "alt", "title"}, "ol": {"start"}}
_TAGS = {"a", "blockquote", "br", "code", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "img", "li", "ol", "p", "pre"}
_TAGS |= {"s", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"}
KEYBOARD = "⌨"  # begins a paragraph that speaks of keys: left out on devices without a keyboard
_STEP = re.compile(r"^ {0,3}-{3,}[ \t]*$", re.MULTILINE)


class _Renderer(RendererHTML):
    """Headings one level lower, since every page has its own first; pictures of other sites as links."""

    def heading_open(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return f"<h{min(int(tokens[index].tag[1]) + 1, 6)}>"

    def heading_close(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return f"</h{min(int(tokens[index].tag[1]) + 1, 6)}>\n"

    def paragraph_open(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        keys = tokens[index + 1].content.startswith(KEYBOARD)
        shown = self.renderToken(tokens, index, options, env)
        return shown.replace("<p>", '<p class="keyboard">') if keys else shown

    def image(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        token = tokens[index]
        source = str(token.attrs.get("src", ""))
        words = Markup.escape(self.renderInlineAsText(token.children, options, env))
        if is_file(source):
            return f'<img src="{Markup.escape(picture(source, str(env["base"])))}" alt="{words}">'
        return f'<a href="{Markup.escape(source)}">{words or Markup.escape(source)}</a>'


@lru_cache
def _parser() -> MarkdownIt:
    # Typographer and linkify stay off: what is written is what is shown.
    return MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable(["table", "strikethrough"])


def is_file(source: str) -> bool:
    """Whether a picture's address is a file of the campaign's folder, not a web address."""
    parts = urlsplit(source)
    return bool(parts.path) and not parts.scheme and not parts.netloc and not source.startswith("/")


def picture(source: str, base: str = "") -> str:
    """Return the address at which this site shows a file of the campaign's folder; ``base`` is the site's prefix."""
    return base + PICTURES + quote(unquote(source))


def _clean(html: str) -> Markup:
    safe = nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        allowed_classes={"p": {"keyboard"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer",
    )
    return Markup(safe)


def render(text: str, base: str = "") -> Markup:
    """Return Markdown as safe HTML; ``base`` is the prefix at which a proxy serves the site."""
    return _clean(_parser().render(text, {"base": base}))


def steps(text: str, base: str = "") -> list[Markup]:
    """Return a tutorial's steps, which lines of three hyphens part, as safe HTML; empty ones are left out."""
    return [render(part, base) for part in _STEP.split(text.replace("\r\n", "\n")) if part.strip()]


def entries(text: str, base: str = "") -> list[tuple[str, Markup]]:
    """Return a field guide's entries as (heading, safe HTML); what stands before the first has an empty heading.

    Headings of the first two levels start an entry.
    """
    parser, env = _parser(), {"base": base}
    found: list[tuple[str, list[Token]]] = [("", [])]
    tokens = iter(parser.parse(text, env))
    for token in tokens:
        if token.type == "heading_open" and token.level == 0 and token.tag in ("h1", "h2"):
            inline = next(tokens)
            next(tokens)  # the closing tag
            words = parser.renderer.renderInlineAsText(inline.children, parser.options, env)  # type: ignore[attr-defined]
            found.append((words, []))
        else:
            found[-1][1].append(token)
    return [
        (title, _clean(parser.renderer.render(body, parser.options, env))) for title, body in found if title or body
    ]


def pictures_in(text: str) -> set[str]:
    """Return the files of the campaign's folder that a Markdown text shows."""

    def walk(tokens: Iterable[Token]) -> Iterable[str]:
        for token in tokens:
            if token.type == "image":
                yield unquote(str(token.attrs.get("src", "")))
            yield from walk(token.children or ())

    return {source for source in walk(_parser().parse(text)) if is_file(source)}


def in_language(text: Mapping[str, str], language: str) -> str:
    """Return a text in ``language``, else in English, else in whichever it is written; "" where there is none."""
    return text.get(language) or text.get("en") or next(iter(text.values()), "")
