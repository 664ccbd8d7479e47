"""Draw the labelled contact sheet of simulated galaxies that the documentation shows.

    python examples/contact_sheet.py docs/images/simulated-galaxies.png

Every row is picked by the truth, that is by what an ideal volunteer would answer, and the last one shows a
single galaxy carried away from us. The same command always draws the same sheet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from greenpea.simulate import Galaxies, at_redshift, galaxies, observe
from greenpea.tree import DecisionTree

SEED = 5
COUNT = 6000
COLUMNS = 8
LABEL = 150  # width of the labels, pixels
GAP = 2
COLOURS = 240  # a palette keeps the file small: noise does not compress

# Label, then the routes through the tree whose galaxies share the row, as (question, answer) steps.
ROWS: dict[str, list[str]] = {
    "smooth, round": ["smooth-or-featured:smooth how-rounded:round"],
    "smooth, in between": ["smooth-or-featured:smooth how-rounded:in-between"],
    "smooth, cigar-shaped": ["smooth-or-featured:smooth how-rounded:cigar-shaped"],
    "edge-on: rounded,\nboxy, no bulge": [
        f"smooth-or-featured:featured-or-disk disk-edge-on:yes edge-on-bulge:{bulge} merging:none"
        for bulge in ("rounded", "boxy", "none")
    ],
    "weak, strong bar": [f"disk-edge-on:no bar:{bar} merging:none" for bar in ("weak", "strong")],
    "two arms: tight,\nmedium, loose": [
        f"disk-edge-on:no has-spiral-arms:yes spiral-winding:{winding} spiral-arm-count:2 merging:none"
        for winding in ("tight", "medium", "loose")
    ],
    "1, 3, 4, more arms,\ncannot tell": [
        f"disk-edge-on:no has-spiral-arms:yes spiral-arm-count:{count} merging:none"
        for count in ("1", "3", "4", "more-than-4", "cant-tell")
    ],
    "no, small, moderate,\nlarge, dominant bulge": [
        f"smooth-or-featured:featured-or-disk disk-edge-on:no bulge-size:{size} merging:none"
        for size in ("none", "small", "moderate", "large", "dominant")
    ],
    "ring": ["disk-edge-on:no rare-features:ring merging:none"],
    "merger": ["merging:merger"],
    "major, minor\ndisturbance": ["merging:major-disturbance", "merging:minor-disturbance"],
    "arc, irregular, dust,\noverlapping": [
        f"rare-features:{feature}" for feature in ("lens-or-arc", "irregular", "dust-lane", "overlapping")
    ],
    "artifact": ["smooth-or-featured:artifact"],
}
REDSHIFTS = np.geomspace(0.015, 0.25, COLUMNS)


def share(some: Galaxies, tree: DecisionTree, route: str) -> np.ndarray:
    """Return the probability that an ideal volunteer gives all the answers of a route, per subject."""
    total = np.ones(len(some))
    for step in route.split():
        question, answer = step.split(":")
        total = total * some.truth[question][:, tree[question].answer_slugs.index(answer)]
    if "artifact" not in route:
        total = total * (some.properties["artifact"] == 0)
    return total


def pick(some: Galaxies, tree: DecisionTree, routes: list[str]) -> np.ndarray:
    """Return the pictures of a row: of the clearest few per cent on each route, those that come first."""
    rows: list[int] = []
    for number, route in enumerate(routes):
        wanted = (number + 1) * COLUMNS // len(routes) - len(rows)
        likely = share(some, tree, route)
        clear = np.flatnonzero(likely >= np.sort(likely)[-4 * wanted])
        rows += [int(row) for row in clear if row not in rows][:wanted]
    return some.images[rows]


def carried_away(some: Galaxies) -> np.ndarray:
    """Return pictures of one clear two-armed spiral, seen from ever farther away under the same sky."""
    alone = (some.properties["artifact"] == 0) & (some.properties["companion_flux"] == 0)
    here = np.argmax(alone * some.truth["spiral-arm-count"][:, 1] * some.properties["bar_seen"])
    same = {name: np.repeat(values[here], COLUMNS) for name, values in some.properties.items()}
    return observe(at_redshift(same, REDSHIFTS), seed=SEED).images


def contact_sheet(rows: dict[str, np.ndarray]) -> Image.Image:
    """Return the sheet: one labelled row of pictures [picture, y, x, channel] per entry."""
    size = next(iter(rows.values())).shape[1] + GAP
    sheet = Image.new("RGB", (LABEL + COLUMNS * size, len(rows) * size), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for number, (label, pictures) in enumerate(rows.items()):
        pen.multiline_text((LABEL - 8, (number + 0.5) * size), label, "black", font, anchor="rm", align="right")
        for column, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (LABEL + column * size, number * size))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the contact sheet of simulated galaxies.")
    parser.add_argument("file", type=Path, help="where to write the PNG")
    file = parser.parse_args().file
    tree = DecisionTree.load("gz-decals-5")
    some = galaxies(COUNT, SEED)
    rows = {label: pick(some, tree, routes) for label, routes in ROWS.items()}
    rows[f"one galaxy, redshift\n{REDSHIFTS[0]:.3f} to {REDSHIFTS[-1]:.2f}"] = carried_away(some)
    file.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows).quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    main()
