"""Markdown of a campaign's team: shown as written, and never as anything that could act."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenpea.site import markdown

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[a](javascript:alert(1))",
    "[a](JaVaScRiPt&#58;alert(1))",
    "[a](data:text/html;base64,PHNjcmlwdD4=)",
    "![a](javascript:alert(1))",
    '![a"onerror="alert(1)](x.png)',
    '[a](https://e.org "\\" onclick=\\"alert(1)")',
    "<svg/onload=alert(1)>",
    "<style>body{display:none}</style>",
    "<a href='x' style='position:fixed'>x</a>",
    "`<script>`",
    "# <iframe src=//e.org>",
]
ATTRIBUTES = {"href", "src", "alt", "title", "rel", "start"}


class _Reader(HTMLParser):
    """Collects what a browser would find: tags, and attributes with their values."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def harmless(html: str) -> bool:
    """Whether every tag is one that may stand, without a handler, a style, or an address that acts."""
    reader = _Reader()
    reader.feed(html)
    addresses = [re.sub(r"\s", "", value).lower() for name, value in reader.attributes if name in ("href", "src")]
    return (
        reader.tags <= markdown._TAGS
        and {name for name, _ in reader.attributes} <= ATTRIBUTES
        and not any(address.startswith(("javascript:", "data:", "vbscript:")) for address in addresses)
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_markdown_becomes_harmless(text: str) -> None:
    assert harmless(str(markdown.render(text)))


@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=12), st.sampled_from("<>\"'()[]!&\\\n`#-*"))))
def test_no_text_at_all_becomes_harmful(parts: list[str]) -> None:
    text = "".join(parts)
    for html in (markdown.render(text), *markdown.steps(text), *(body for _, body in markdown.entries(text))):
        assert harmless(str(html))


def test_what_is_meant_is_shown() -> None:
    html = str(markdown.render("# Bars\n\nA **straight** band.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"))
    assert "<h2>Bars</h2>" in html, "the page has its own first heading"
    assert "<strong>straight</strong>" in html
    assert "<td>1</td>" in html


def test_pictures_are_files_of_the_campaign_or_links() -> None:
    html = str(markdown.render("![a bar](img/bar.png) ![far](https://e.org/x.png) ![up](/etc/passwd)", base="/p"))
    assert '<img src="/p/pictures/img/bar.png" alt="a bar">' in html
    assert '<a href="https://e.org/x.png" rel="noopener noreferrer">far</a>' in html
    assert html.count("<img") == 1
    assert markdown.pictures_in("![a](img/bar.png) text ![b](https://e.org/x.png)\n\n- ![c](<a b.png>)") == {
        "img/bar.png",
        "a b.png",
    }


def test_three_hyphens_part_steps_and_leave_tables_and_headings_alone() -> None:
    steps = markdown.steps("# One\r\n\r\ntext\r\n---\r\n\r\n---\n\n# Two\n\n|a|b|\n|---|---|\n|1|2|\n")
    assert [step.count("<h2>") for step in steps] == [1, 1]
    assert "<table>" in steps[1]
    assert markdown.steps("") == []


def test_headings_start_the_entries_of_a_guide() -> None:
    entries = markdown.entries("intro\n\n# Bar & *ring*\n\nA bar.\n\n### Weak\n\nfaint\n\n## Merger\n")
    assert [title for title, _ in entries] == ["", "Bar & ring", "Merger"]
    assert "<h4>Weak</h4>" in entries[1][1]


def test_a_text_falls_back_to_english_then_to_any_language() -> None:
    assert markdown.in_language({"en": "a", "de": "b"}, "de") == "b"
    assert markdown.in_language({"en": "a", "de": "b"}, "es") == "a"
    assert markdown.in_language({"fr": "c"}, "es") == "c"
    assert markdown.in_language({}, "es") == ""
