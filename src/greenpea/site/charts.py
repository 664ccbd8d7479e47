"""Charts for the team's pages: numbers in, SVG out. Classes, never inline styles: the style sheet colours them.

A chart is drawn in units of a phone's pixels and scaled by the page, so that its text is readable on both. Every
chart carries a title and a description for those who hear it, and says so where there is nothing to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from math import floor, log10

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 180
TOP, RIGHT, BELOW = 12, 8, 24  # room around the drawing; the room on the left depends on the labels
LETTER = 6.7  # the widest a figure of the style sheet's 11-unit text is
GAP = 10  # least room between two labels
HOURS, DAYS = (1, 2, 3, 6, 12, 24), (1, 2, 5, 10, 15, 30, 60, 120, 365)  # strides at which time is labelled


# ---- numbers -----------------------------------------------------------------------------------------


def short(number: float) -> str:
    """Return a whole number as an axis has it: 950, 12,000, 150k, 1.5M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= max(size, 1e5):
            return f"{number / size:,.1f}".removesuffix(".0") + letter
    return f"{number:,.0f}"


def ticks(top: float, most: int = 5) -> list[int]:
    """Return 0, step, 2·step … to the first at or above ``top``: at most ``most`` steps of 1, 2 or 5 times 10ⁿ."""
    rough = max(top, 1) / most
    power = 10 ** floor(log10(max(rough, 1)))
    step = next(size for m in (1, 2, 5, 10) if (size := m * power) >= rough)
    return [step * i for i in range(-int(-max(top, 1) // step) + 1)]


def time_labels(starts: Sequence[datetime], step: timedelta, places: Sequence[float]) -> list[tuple[float, str]]:
    """Return (place, text) for as many of ``starts`` as stand side by side without touching.

    Hours are labelled at round hours, midnight by its date; days backwards from the last. ``places`` are the
    middles of the labels.
    """
    hourly = step < timedelta(days=1)
    for stride in HOURS if hourly else DAYS:
        chosen = [
            (place, _time_label(start, hourly))
            for i, (start, place) in enumerate(zip(starts, places, strict=True))
            if (start.hour % stride == 0 if hourly else (len(starts) - 1 - i) % stride == 0)
        ]
        labels = [(place, text) for place, text in chosen if _reach(place, text)[0] >= 0 and _inside(place, text)]
        ends = [_reach(place, text) for place, text in labels]
        if all(one[1] + GAP <= other[0] for one, other in pairwise(ends)):
            return labels
    return labels[-1:]


def _time_label(start: datetime, hourly: bool) -> str:
    return f"{start:%H}:00" if hourly and start.hour else f"{start.day} {start:%b}"


def _reach(place: float, text: str) -> tuple[float, float]:
    half = LETTER * len(text) / 2
    return place - half, place + half


def _inside(place: float, text: str) -> bool:
    return _reach(place, text)[1] <= WIDTH


# ---- drawing -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """Where values are drawn: ``bins`` places side by side, from 0 to the last of ``marks`` upwards."""

    bins: int
    marks: Sequence[int]

    @property
    def left(self) -> float:
        return 8 + LETTER * max(len(short(mark)) for mark in self.marks)

    @property
    def width(self) -> float:
        return (WIDTH - RIGHT - self.left) / max(self.bins, 1)

    def x(self, bin: float) -> float:
        return self.left + bin * self.width

    def y(self, value: float) -> float:
        return HEIGHT - BELOW - value / self.marks[-1] * (HEIGHT - BELOW - TOP)


def bars(
    name: str, title: str, starts: Sequence[datetime], values: Sequence[int], step: timedelta, what: str
) -> Markup:
    """Draw one bar per interval of ``step`` from each of ``starts``; ``what`` is what is counted, in the plural.

    ``name`` is unique on the page. Pointing at a bar says its interval and number.
    """
    frame = Frame(len(values), ticks(max(values, default=0)))
    if not any(values):
        return _chart(name, title, f"No {what} in this time.", _empty(f"no {what} in this time"))
    most = max(range(len(values)), key=values.__getitem__)
    told = f"{sum(values):,} {what} in all; most, {values[most]:,}, {_interval(starts[most], step)}."
    drawn = Markup("").join(
        _part(
            "rect",
            _part("title", f"{_interval(start, step)}: {value:,} {what}"),
            class_="bar" if value else "bar none",
            x=frame.x(i + 0.1),
            y=frame.y(value) if value else TOP,
            width=0.8 * frame.width,
            height=frame.y(0) - (frame.y(value) if value else TOP),
        )
        for i, (start, value) in enumerate(zip(starts, values, strict=True))
    )
    places = [frame.x(i + 0.5) for i in range(len(values))]
    return _chart(name, title, told, _axes(frame, time_labels(starts, step, places)) + drawn)


def line(
    name: str,
    title: str,
    starts: Sequence[datetime],
    values: Sequence[int],
    step: timedelta,
    what: str,
    top: int | None = None,
) -> Markup:
    """Draw a number as it stood at the end of each interval, with what lies below it shaded.

    ``top`` is drawn as a line to be reached, where it is given.
    """
    frame = Frame(len(values), ticks(max(*values, top or 0, 0) if values else 0))
    if not any(values):
        return _chart(name, title, f"No {what} yet.", _empty(f"no {what} yet"))
    drawn = _area(frame, values, f"now: {values[-1]:,} {what}")
    if top:
        label, goal = _part("title", f"all: {top:,}"), frame.y(top)
        drawn += _part("line", label, class_="goal", x1=frame.left, x2=WIDTH - RIGHT, y1=goal, y2=goal)
    told = f"From {values[0]:,} to {values[-1]:,} {what}" + (f" of {top:,}." if top else ".")
    places = [frame.x(i + 0.5) for i in range(len(values))]
    return _chart(name, title, told, _axes(frame, time_labels(starts, step, places)) + drawn)


def _area(frame: Frame, values: Sequence[int], last: str) -> Markup:
    """Draw a line through values at the ends of their intervals, level before the first, with what lies below."""
    ends = [(frame.x(0), frame.y(values[0])), *((frame.x(i + 1), frame.y(value)) for i, value in enumerate(values))]
    way, base = "L".join(f"{_round(x)} {_round(y)}" for x, y in ends), _round(frame.y(0))
    x, y = ends[-1]
    return (
        _part("path", class_="area", d=f"M{way}L{_round(x)} {base}L{_round(frame.x(0))} {base}Z")
        + _part("path", class_="line", d=f"M{way}")
        + _part("circle", _part("title", last), class_="dot", cx=x, cy=y, r=3)
    )


def share(value: float, kind: str = "") -> Markup:
    """Draw a share (0 to 1) as a bar that fills its place; the number stands beside it in the text."""
    shown = _round(100 * min(max(value, 0), 1))
    filled = _part("rect", class_="fill", width=f"{shown}%", height="100%")
    return _part("svg", filled, class_=f"share {kind}".strip(), aria_hidden="true", focusable="false")


def stack(parts: Sequence[tuple[str, int]], total: int) -> Markup:
    """Draw parts of a total side by side, what is left empty; the n-th part has the class ``part-n``."""
    drawn, start = [], 0.0
    for i, (label, count) in enumerate(parts):
        size = 100 * count / total if total else 0
        title = _part("title", f"{label}: {count:,}")
        drawn.append(
            _part("rect", title, class_=f"part-{i}", x=f"{_round(start)}%", width=f"{_round(size)}%", height="100%")
        )
        start += size
    return _part("svg", Markup("").join(drawn), class_="stack", aria_hidden="true", focusable="false")


def _axes(frame: Frame, labels: Sequence[tuple[float, str]]) -> Markup:
    rules = (
        _part("line", class_="grid", x1=frame.left, x2=WIDTH - RIGHT, y1=frame.y(mark), y2=frame.y(mark))
        + _part("text", short(mark), class_="tick up", x=frame.left - 5, y=frame.y(mark) + 3.5, text_anchor="end")
        for mark in frame.marks
    )
    times = (
        _part("text", text, class_="tick along", x=place, y=HEIGHT - BELOW + 16, text_anchor="middle")
        for place, text in labels
    )
    return Markup("").join([*rules, *times])


def _empty(words: str) -> Markup:
    return _part("text", words, class_="nothing", x=WIDTH / 2, y=HEIGHT / 2, text_anchor="middle")


def _chart(name: str, title: str, told: str, content: Markup) -> Markup:
    heading = _part("title", title, id=f"{name}-title") + _part("desc", told, id=f"{name}-told")
    return _part(
        "svg",
        heading + content,
        class_="chart",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_labelledby=f"{name}-title {name}-told",
    )


def _interval(start: datetime, step: timedelta) -> str:
    day = f"{start.day} {start:%b %Y}"
    if step < timedelta(days=1):
        return f"{day}, {start:%H:%M} to {start + step:%H:%M} UTC"
    return day if step == timedelta(days=1) else f"{step.days} days from {day}"


def _part(kind: str, content: str = "", **attributes: object) -> Markup:
    """Return an SVG element; text is escaped, ``class_`` is written class, and ``aria_hidden`` aria-hidden."""
    written = Markup("").join(
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"), _round(value) if isinstance(value, float) else value
        )
        for key, value in attributes.items()
    )
    return Markup("<{}{}>{}</{}>").format(kind, written, escape(content), kind)


def _round(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
