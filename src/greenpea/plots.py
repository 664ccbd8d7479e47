"""Pictures of a posterior and of how it was judged: values in, a matplotlib Figure out; no pyplot.

Every colour is one of the few named here, so that `svg` can hand them to the page as CSS variables: the same
picture then reads on light and on dark paper. Panels are small on purpose: a page sets them side by side on a
desk and one below the other on a phone, without shrinking their text.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from io import StringIO

import matplotlib
import numpy as np
from jaxtyping import Float, Int, Num
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import binom

from greenpea.calibration import LEVELS, LabelReliability, Reliability, Score, by_decile
from greenpea.tree import Question

INK, MUTED, GRID = "#1d2521", "#5f6963", "#dbe1dc"
GREEN, ORANGE, DRAW = "#17865a", "#c2600c", "#8f9993"
SHADE = "#2fa36f"  # of densities, which are pixels and cannot follow the page: a green that reads on both papers
PALETTE = {INK: "ink", MUTED: "muted", GRID: "grid", GREEN: "green", ORANGE: "orange", DRAW: "draw"}

MOST_LINES = 60  # draws drawn one by one
MOST_POINTS = 1500  # points drawn one by one; more become a density


# ---- what is predicted -------------------------------------------------------------------------------


def votes_predicted(
    image: Num[np.ndarray, "channel y x"] | None,
    name: str,
    question: Question,
    pmf: Float[np.ndarray, "draw answer k"],
    counts: Int[np.ndarray, " answer"],
    reached: int,
    answer: int | None = None,
) -> Figure:
    """Draw the image, what one draw predicts, and what all draws and their mixture predict (Walmsley+2020).

    ``pmf`` is p(k of ``reached`` volunteers give the answer) per draw; the line marks what they did. The
    ``answer`` is by default the one `most_in_doubt`. Without an image, the two panels of predictions only.
    """
    answer = most_in_doubt(pmf) if answer is None else answer
    curves, k = pmf[:, answer], np.arange(reached + 1)
    figure = _figure(4.3 if image is None else 6.2, 2.0)
    ratios = [1, 1.25] if image is None else [0.9, 1, 1.25]
    panels = figure.subplots(1, len(ratios), width_ratios=ratios)
    if image is not None:
        _show_image(panels[0], image, name)
    one, many = panels[-2:]
    one.bar(k, curves[0], color=DRAW, width=0.8)
    many.plot(k, _thinned(curves).T, color=DRAW, alpha=0.45, linewidth=0.7)
    marker = "o" if reached <= 25 else ""
    many.plot(k, curves.mean(axis=0), color=GREEN, linewidth=2, marker=marker, markersize=3)
    said = question.answers[answer].label()
    for panel, title in ((one, "one draw"), (many, f"{len(curves)} draws and their mixture")):
        panel.axvline(counts[answer], color=INK, linewidth=1.6, linestyle=(0, (4, 2)))
        style(panel, title=title, grid="y")
        panel.set(xlim=(-0.7, reached + 0.7), ylim=(0, 1.06 * curves.max()))
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    many.tick_params(labelleft=False)
    one.set_ylabel("probability", color=MUTED, fontsize=8)
    figure.supxlabel(_short(f"of {reached} asked, “{said}”", 60), color=INK, fontsize=8.5, parse_math=False)
    return figure


def most_in_doubt(pmf: Float[np.ndarray, "draw answer k"]) -> int:
    """Return the answer whose count varies most under the mixture; the first of several."""
    mixture, k = pmf.mean(axis=0), np.arange(pmf.shape[-1])
    variance = mixture @ k**2 - (mixture @ k) ** 2
    return int(np.argmax(np.round(variance, 9)))


def fractions(
    predicted: Float[np.ndarray, " subject"],
    observed: Float[np.ndarray, " subject"],
    reached: Int[np.ndarray, " subject"],
    name: str,
) -> Figure:
    """Draw observed against predicted vote fractions, with the scatter that voting alone brings.

    The band is ±1 s.d. of the fraction of n voters around a perfect prediction, n the median of ``reached``.
    """
    figure = _figure(2.7, 2.7)
    axes = figure.subplots()
    f = np.linspace(0, 1, 101)
    noise = np.sqrt(f * (1 - f) / max(1.0, float(np.median(reached))))
    axes.fill_between(f, np.clip(f - noise, 0, 1), np.clip(f + noise, 0, 1), color=DRAW, alpha=0.25, linewidth=0)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
    _cloud(axes, predicted, observed, ((0, 1), (0, 1)))
    style(axes, "predicted fraction", "observed fraction", name)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    return figure


# ---- is it right -------------------------------------------------------------------------------------


def excess(scores: Sequence[Score], names: Sequence[str] | None = None) -> Figure:
    """Draw excess nats per vote per question: the network with its interval, the constant predictor, the floor.

    The first of ``scores`` is of all questions together; or ``names`` say what each is of.
    """
    figure = _figure(4.8, 0.9 + 0.27 * len(scores))
    axes = figure.subplots()
    place = np.arange(len(scores))[::-1]
    value = np.array([score.excess.value for score in scores])
    reach = np.array([[score.excess.low, score.excess.high] for score in scores])
    apart = np.maximum(np.abs(reach - value[:, None]).T, 0)
    axes.axvline(0, color=INK, linewidth=1.2)
    constant = [score.constant_excess for score in scores]
    axes.scatter(constant, place, color=ORANGE, marker="D", s=22, zorder=3, label="constant predictor")
    axes.errorbar(
        value, place, xerr=apart, color=GREEN, fmt="o", markersize=4.5, elinewidth=1.4, zorder=4, label="network"
    )
    style(axes, "nats per vote above the floor", grid="x")
    names = names or ["all questions", *(score.question for score in scores[1:])]
    axes.set_yticks(place, [_short(name, 26) for name in names], parse_math=False, color=INK)
    axes.set_ylim(-0.7, len(scores) - 0.3)
    high = max(float(reach.max()), *constant)
    axes.set_xlim(min(0.0, float(reach.min())) - 0.03 * high, 1.08 * high)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, labelcolor=INK, frameon=False)
    return figure


def coverage(ranks: Float[np.ndarray, " subject"], name: str) -> Figure:
    """Draw how many counts the joint highest-density sets hold against how many they should.

    ``ranks`` are of `highest_density_ranks`. The band holds 95 % of calibrated posteriors at each level
    (binomial); the points are the levels of the table, with their standard errors.
    """
    figure = _figure(2.8, 2.8)
    axes = figure.subplots()
    n, level = len(ranks), np.linspace(0, 1, 101)
    low, high = (binom.ppf(q, n, level) / n for q in (0.025, 0.975))
    axes.fill_between(level, low, high, color=DRAW, alpha=0.28, linewidth=0)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
    axes.plot(level, _held(ranks, level), color=GREEN, linewidth=1.6)
    marks = np.array(LEVELS)
    error = np.sqrt(marks * (1 - marks) / n)
    axes.errorbar(marks, _held(ranks, marks), error, color=GREEN, fmt="o", markersize=4, elinewidth=1.2)
    style(axes, "should hold", "holds", name)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_xticks([0, *LEVELS[:-1], 1], ["0", "50 %", "80", "90", "100"])
    axes.set_yticks([0, *LEVELS[:-1], 1], ["0", "50 %", "80", "90", "100"])
    return figure


def _held(ranks: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(ranks), levels, side="right") / len(ranks)


def pit(
    predicted: Float[np.ndarray, " cell"],
    values: Float[np.ndarray, " cell"],
    name: str,
    groups: int = 10,
    bins: int = 10,
) -> Figure:
    """Draw, side by side, the histogram of ``values`` (`randomised_pit`) in each decile of the predicted fraction.

    1 is what a calibrated posterior has; the band holds 95 % of its bars, were all cells independent. Each is
    marked with its mean predicted fraction. Fewer groups where they would hold fewer than 20 cells.
    """
    groups = max(1, min(groups, len(values) // 20))
    figure = _figure(2.8 if groups < 5 else 4.2, 2.8)
    axes = figure.subplots()
    edges = np.linspace(0.06, 0.94, bins + 1)
    means, tallest = [], 2.0
    parts = zip(by_decile(predicted, predicted, groups), by_decile(predicted, values, groups), strict=True)
    for place, (fraction, part) in enumerate(parts):
        density = np.histogram(part, bins, (0, 1))[0] * bins / len(part)
        low, high = binom.ppf([0.025, 0.975], len(part), 1 / bins) * bins / len(part)
        axes.fill_between(place + edges[[0, -1]], low, high, color=DRAW, alpha=0.28, linewidth=0)
        axes.stairs(density, place + edges, color=GREEN, linewidth=1.2, baseline=None)
        means.append(float(fraction.mean()))
        tallest = max(tallest, float(density.max()), float(high))
    axes.axhline(1, color=MUTED, linewidth=0.8)
    style(axes, "PIT, by predicted fraction", "relative frequency", name, grid="")
    axes.set(xlim=(0, groups), ylim=(0, 1.05 * tallest))
    axes.set_xticks(np.arange(groups) + 0.5, [f"{mean:.2f}" for mean in means])
    return figure


def reliability(points: Reliability, name: str) -> Figure:
    """Draw observed against predicted vote fractions in bins, and below how many cells each bin has."""
    figure = _figure(2.8, 2.8)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    top.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
    top.errorbar(points.predicted, points.observed, points.error, color=GREEN, marker="o", markersize=4, linewidth=1.2)
    style(top, "", "observed fraction", name)
    top.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    bottom.bar(points.predicted, points.cells, width=0.05, color=DRAW)
    bottom.set_yscale("log")
    bottom.yaxis.set_major_formatter("{x:,.0f}")
    bottom.set_ylim(0.7, 2 * float(points.cells.max()))
    bottom.minorticks_off()
    style(bottom, "predicted fraction", "cells", grid="")
    return figure


def label_reliability(points: LabelReliability, name: str) -> Figure:
    """Draw how often a class was right against how probable it was said to be, and below how many cells a bin has.

    The band holds 95 % of the frequencies that a perfectly calibrated predictor would show.
    """
    figure = _figure(2.8, 2.8)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    top.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
    top.fill_between(points.confidence, points.low, points.high, color=DRAW, alpha=0.28, linewidth=0)
    top.plot(points.confidence, points.frequency, color=GREEN, marker="o", markersize=4, linewidth=1.2)
    style(top, "", "observed frequency", name)
    top.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    bottom.bar(points.confidence, points.cells, width=0.05, color=DRAW)
    bottom.set_yscale("log")
    bottom.yaxis.set_major_formatter("{x:,.0f}")
    bottom.set_ylim(0.7, 2 * float(points.cells.max()))
    bottom.minorticks_off()
    style(bottom, "predicted probability", "cells", grid="")
    return figure


# ---- how it was learned, and what to ask next --------------------------------------------------------


def history(train: Sequence[float], held_out: Sequence[float], best_epoch: int = -1) -> Figure:
    """Draw the losses of every epoch, in nats per subject; the line marks the epoch that was kept."""
    figure = _figure(4.4, 2.5)
    axes = figure.subplots()
    epochs = np.arange(1, len(train) + 1)
    marker = "o" if len(train) == 1 else ""
    axes.plot(epochs, train, color=DRAW, linewidth=1.4, marker=marker, label="training")
    axes.plot(np.arange(1, len(held_out) + 1), held_out, color=GREEN, linewidth=1.8, marker=marker, label="held out")
    if best_epoch >= 0:
        axes.axvline(best_epoch + 1, color=INK, linewidth=1, linestyle=(0, (4, 2)), label="kept")
    style(axes, "epoch", "loss, nats per subject")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend(fontsize=8, labelcolor=INK, frameon=False)
    return figure


def information(
    value: Float[np.ndarray, " subject"], draws: int, distance: Float[np.ndarray, " subject"] | None = None
) -> Figure:
    """Draw what more votes would teach, in nats, against the distance in embedding space; ln T is the ceiling.

    Without distances, a histogram.
    """
    figure = _figure(4.4, 2.9)
    axes = figure.subplots()
    shown = np.maximum(value, 1e-4)
    low, ceiling = 0.8 * float(shown.min()), float(np.log(draws))
    words = f"ln {draws} = {ceiling:.2f}: all that {draws} draws can tell"
    if distance is None:
        axes.hist(shown, np.geomspace(low, 1.3 * ceiling, 40).tolist(), color=DRAW)
        axes.axvline(ceiling, color=ORANGE, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.set_xscale("log")
        style(axes, "information, nats", "subjects", words)
        return figure
    span = (0.95 * float(distance.min()), 1.03 * float(distance.max()) + 1e-9)
    axes.set_yscale("log")
    _cloud(axes, distance, shown, (span, (low, 1.3 * ceiling)), log_y=True)
    axes.axhline(ceiling, color=ORANGE, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.text(0.02, 1.15 * ceiling, words, color=ORANGE, fontsize=8, transform=axes.get_yaxis_transform())
    axes.set(xlim=span, ylim=(low, 2.2 * ceiling))
    style(axes, "distance in embedding space", "information, nats")
    return figure


def doubts(names: Sequence[str], parts: Mapping[str, Float[np.ndarray, " question"]]) -> Figure:
    """Draw, per question, how much of the doubt about votes is of which kind, in nats; the first kind leftmost."""
    figure = _figure(4.8, 1.0 + 0.27 * len(names))
    axes = figure.subplots()
    place, left = np.arange(len(names))[::-1], np.zeros(len(names))
    for (kind, values), colour in zip(parts.items(), (GREEN, ORANGE, DRAW), strict=True):
        axes.barh(place, values, 0.62, left, color=colour, label=kind)
        left = left + values
    axes.set_yticks(place, [_short(name, 26) for name in names], parse_math=False, color=INK)
    axes.set_ylim(-0.6, len(names) - 0.4)
    style(axes, "entropy of the votes, nats", grid="x")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, labelcolor=INK, frameon=False)
    return figure


# ---- the page ----------------------------------------------------------------------------------------


def svg(figure: Figure) -> str:
    """Return a figure as an ``<svg>`` element for an HTML page, which sets the font, ``--fig-ink`` and so on.

    Without width, ids nobody refers to, namespaces and metadata: nothing in it is fetched from anywhere.
    The same figure gives the same text.
    """
    buffer, paper = StringIO(), figure.get_facecolor()
    unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    plain = matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "greenpea"})
    with plain, warnings.catch_warnings():
        # The page's own font is used, which may well have what matplotlib's lacks.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        figure.set_facecolor("none")
        FigureCanvasSVG(figure).print_svg(buffer, metadata=unsaid)  # savefig draws a figure with a layout twice
        figure.set_facecolor(paper)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    view_box = re.search(r'viewBox="[^"]*"', text)
    text = f"<svg {view_box[0] if view_box else ''}>{text[text.index('>') + 1 :]}"
    # matplotlib's style is a rule for "*", which would leave the picture and rule the page.
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r" font-family: [^;\"]*;|\n\s*", " ", text).replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    return re.sub("|".join(PALETTE), lambda found: f"var(--fig-{PALETTE[found[0]]})", text)


def as_picture(image: Num[np.ndarray, "channel y x"]) -> Num[np.ndarray, "y x rgb"]:
    """Return an image as 8-bit RGB for the eye: three channels as they are, any other number as their mean.

    Floats are taken to lie in [0, 1]; an image that does not is scaled to its own extremes.
    """
    shown = image if len(image) == 3 else image.mean(axis=0, keepdims=True).repeat(3, axis=0)
    if image.dtype == np.uint8:
        return np.moveaxis(shown, 0, 2).astype(np.uint8)
    shown = np.nan_to_num(np.asarray(shown, np.float64), nan=0.0, posinf=1.0, neginf=0.0)
    low, high = float(shown.min()), float(shown.max())
    if low < 0 or high > 1:
        shown = (shown - low) / max(high - low, 1e-12)
    return np.rint(255 * np.moveaxis(shown, 0, 2)).astype(np.uint8)


# ---- the same in every picture -----------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def style(axes: Axes, x: str = "", y: str = "", title: str = "", size: float = 9, grid: str = "xy") -> None:
    """Label axes; the words may be a stranger's, so nothing in them is mathematics."""
    axes.set_facecolor("none")
    if x:
        axes.set_xlabel(x, color=INK, fontsize=8.5, parse_math=False)
    if y:
        axes.set_ylabel(y, color=INK, fontsize=8.5, parse_math=False)
    if title:
        axes.set_title(_short(title), color=INK, fontsize=size, parse_math=False)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(MUTED)
        spine.set_linewidth(0.8)
    axes.tick_params(which="both", colors=MUTED, labelsize=7.5, width=0.8, length=3)
    axes.set_axisbelow(True)
    for direction in grid:
        axes.grid(axis="x" if direction == "x" else "y", color=GRID, linewidth=0.7)


def _short(words: str, most: int = 44) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"


def _thinned(curves: Float[np.ndarray, "draw k"]) -> Float[np.ndarray, "some k"]:
    return curves[:: -(-len(curves) // MOST_LINES)]


def _show_image(axes: Axes, image: np.ndarray, name: str) -> None:
    axes.imshow(as_picture(image))
    axes.set_axis_off()
    axes.set_title(_short(name, 24), color=INK, fontsize=9, parse_math=False)


def _cloud(
    axes: Axes,
    x: Float[np.ndarray, " point"],
    y: Float[np.ndarray, " point"],
    span: tuple[tuple[float, float], tuple[float, float]],
    log_y: bool = False,
) -> None:
    """Draw points, or the density of too many; its strength is the square root of the number in a cell."""
    if len(x) <= MOST_POINTS:
        axes.scatter(x, y, s=9, color=GREEN, alpha=0.45, linewidth=0)
        return
    edges_x = np.linspace(*span[0], 41)
    edges_y = np.geomspace(*span[1], 41) if log_y else np.linspace(*span[1], 41)
    cells = np.sqrt(np.histogram2d(x, y, (edges_x, edges_y))[0].T)
    alpha = np.where(cells > 0, 0.12 + 0.88 * cells / cells.max(), 0)
    colours = np.concatenate([np.broadcast_to(to_rgb(SHADE), (*alpha.shape, 3)), alpha[..., None]], axis=-1)
    axes.pcolormesh(edges_x, edges_y, colours, rasterized=True)
