"""Charts for the team's pages: numbers in, SVG out. Classes, never inline styles: the style sheet colours them.

A chart is drawn in units of a phone's pixels and scaled by the page, so that its text is readable on both. Every
chart carries a title and a description for those who hear it, and says so where there is nothing to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from math import ceil, floor, isfinite, log10

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 180
TOP, RIGHT, BELOW = 12, 8, 24  # room around the drawing; the room on the left depends on the labels
LETTER = 6.7  # the widest a figure of the style sheet's 11-unit text is
GAP = 10  # least room between two labels
LINE = 12  # least room between two lines of text
SMALL_WIDTH, SMALL_HEIGHT = 180, 92  # of a chart that stands beside others of its kind
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


def scale(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers, evenly apart, from at or below ``low`` to at or above ``high``: 1, 2 or 5 times 10ⁿ."""
    rough = max(high - low, 1e-9) / most
    power = 10.0 ** floor(log10(rough))
    step = next(size for m in (1, 2, 5, 10, 20) if (size := m * power) >= rough * (1 - 1e-9))
    first = floor(low / step + 1e-9)
    return [step * i for i in range(first, max(ceil(high / step - 1e-9), first + 1) + 1)]


def plain(number: float) -> str:
    """Return a number as an axis has it, fractions to three figures: 12,000, 0.35, 0.005."""
    return short(number) if float(number).is_integer() else f"{number:.3g}"


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


@dataclass(frozen=True)
class Curve:
    """A line through points (across, upwards), each with what pointing at it says; ``kind`` is its class.

    Points that are not finite are left out. ``hollow`` points are drawn as rings.
    """

    name: str
    points: Sequence[tuple[float, float]]
    said: Sequence[str]
    kind: str = "part-0"
    hollow: Sequence[bool] = ()


@dataclass(frozen=True)
class Level:
    """A value to compare with, drawn as a broken line from side to side."""

    name: str
    value: float
    kind: str = ""


@dataclass(frozen=True)
class Plane:
    """Where points are drawn: from the first to the last mark across and upwards."""

    across: Sequence[float]
    upwards: Sequence[float]

    @property
    def left(self) -> float:
        return 8 + LETTER * max(len(plain(mark)) for mark in self.upwards)

    @property
    def right(self) -> float:
        return WIDTH - max(RIGHT, LETTER * len(plain(self.across[-1])) / 2 + 1)

    def x(self, value: float) -> float:
        return self.left + (value - self.across[0]) / (self.across[-1] - self.across[0]) * (self.right - self.left)

    def y(self, value: float) -> float:
        share = (value - self.upwards[0]) / (self.upwards[-1] - self.upwards[0])
        return HEIGHT - BELOW - share * (HEIGHT - BELOW - TOP)


def curves(
    name: str,
    title: str,
    told: str,
    curves: Sequence[Curve],
    levels: Sequence[Level] = (),
    marks: Sequence[float] = (),
    nothing: str = "nothing yet",
) -> Markup:
    """Draw curves over whole numbers from 0, and levels to compare them with.

    ``marks`` are drawn upwards instead of round numbers from 0; ``nothing`` is said where no curve has a point.
    """
    shown = [(x, y) for curve in curves for x, y in curve.points if isfinite(x) and isfinite(y)]
    if not shown:
        return _chart(name, title, f"{nothing[:1].upper()}{nothing[1:]}.", _empty(nothing))
    values = [y for _, y in shown] + [level.value for level in levels if isfinite(level.value)]
    plane = Plane(ticks(max(x for x, _ in shown)), marks or scale(min(0, *values), max(values)))
    drawn = Markup("").join(
        [*(_level(plane, one) for one in levels if isfinite(one.value)), *(_curve(plane, one) for one in curves)]
    )
    return _chart(name, title, told, _grid(plane) + drawn)


def _grid(plane: Plane) -> Markup:
    parts, last = [], float("inf")
    for mark in plane.upwards:
        y = plane.y(mark)
        parts.append(_part("line", class_="grid", x1=plane.left, x2=plane.right, y1=y, y2=y))
        if last - y >= LINE:
            parts.append(_part("text", plain(mark), class_="tick up", x=plane.left - 5, y=y + 3.5, text_anchor="end"))
            last = y
    parts += [
        _part("text", plain(mark), class_="tick along", x=plane.x(mark), y=HEIGHT - BELOW + 16, text_anchor="middle")
        for mark in plane.across
    ]
    return Markup("").join(parts)


def _level(plane: Plane, level: Level) -> Markup:
    y = plane.y(level.value)
    label = _part("title", level.name)
    return _part("line", label, class_=f"goal {level.kind}".strip(), x1=plane.left, x2=plane.right, y1=y, y2=y)


def _curve(plane: Plane, curve: Curve) -> Markup:
    hollow = curve.hollow or [False] * len(curve.points)
    points = [
        (plane.x(x), plane.y(y), said, ring)
        for (x, y), said, ring in zip(curve.points, curve.said, hollow, strict=True)
        if isfinite(x) and isfinite(y)
    ]
    way = "L".join(f"{_round(x)} {_round(y)}" for x, y, _, _ in points)
    line = _part("path", class_=f"curve {curve.kind}", d=f"M{way}") if len(points) > 1 else Markup("")
    return line + Markup("").join(
        _part("circle", _part("title", said), class_=f"point {curve.kind}{' ring' * ring}", cx=x, cy=y, r=2.6)
        for x, y, said, ring in points
    )


def pmf(
    name: str,
    title: str,
    told: str,
    draws: Sequence[Sequence[float]],
    mixture: Sequence[float],
    combined: Sequence[float],
    votes: int | None,
) -> Markup:
    """Draw p(k of N), k = 0…N: single draws thinly, their mixture, and that combined with the votes.

    ``votes`` is the k there is so far, marked where it is given.
    """
    n = len(mixture) - 1
    top = max(max(values) for values in (*draws, mixture, combined)) or 1.0
    base, left, right = SMALL_HEIGHT - 17, 5.0, SMALL_WIDTH - 5.0

    def place(k: int) -> float:
        return left + (right - left) * k / n

    def way(values: Sequence[float]) -> str:
        heights = [round(base - (base - 8) * value / top, 1) for value in values]
        # Where the curve is level for a while, only the ends of that stretch are needed.
        kept = [k for k in range(n + 1) if k in (0, n) or not heights[k - 1] == heights[k] == heights[k + 1]]
        return "M" + "L".join(f"{place(k):.1f} {heights[k]:g}" for k in kept)

    parts = [_part("line", class_="grid", x1=left, x2=right, y1=base, y2=base)]
    if votes is not None:
        x = place(votes)
        parts.append(
            _part("line", _part("title", f"votes so far: {votes} of {n}"), class_="votes", x1=x, x2=x, y1=6, y2=base)
        )
        parts.append(_part("path", class_="votes-head", d=f"M{x:.1f} 6l-4 -6h8z"))
    parts += [_part("path", class_="draw", d=way(values)) for values in draws]
    parts.append(_part("path", _part("title", "the network alone"), class_="mixture", d=way(mixture)))
    parts.append(_part("path", _part("title", "network and votes together"), class_="combined", d=way(combined)))
    parts.append(_part("text", "0", class_="tick", x=left, y=SMALL_HEIGHT - 3, text_anchor="start"))
    parts.append(_part("text", str(n), class_="tick", x=right, y=SMALL_HEIGHT - 3, text_anchor="end"))
    return _chart(name, title, told, Markup("").join(parts), "chart pmf", SMALL_WIDTH, SMALL_HEIGHT)


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


def _chart(
    name: str,
    title: str,
    told: str,
    content: Markup,
    kind: str = "chart",
    width: int = WIDTH,
    height: int = HEIGHT,
) -> Markup:
    heading = _part("title", title, id=f"{name}-title") + _part("desc", told, id=f"{name}-told")
    return _part(
        "svg",
        heading + content,
        class_=kind,
        viewBox=f"0 0 {width} {height}",
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
