"""What processes beside the network do with what it saw: posteriors become rows of the catalogue.

A room of its own, for it is loaded by every such process: the network's libraries take four seconds, this a half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from greenpea import catalogue
from greenpea.parts import DRAWS, MAIN
from greenpea.posterior import Posterior
from greenpea.settings import Catalogue

Left = tuple[tuple[str, str], ...]  # subjects left out, and why


@dataclass(frozen=True, eq=False)
class Block:
    """Some subjects, in order: the rows that could be seen, and those that could not, with the reason."""

    start: int  # the first subject's row, of those seen or not
    rows: np.ndarray
    posterior: Posterior | None  # of the rows seen; None where there is none
    left: Left


@dataclass(frozen=True, eq=False)
class Described:
    """The rows of a block: per name of a table its pieces, and who was left out."""

    subjects: int  # seen or not
    tables: dict[str, list[pa.Table]]
    left: Left


def describe(settings: Catalogue, seed: int, draws: bool, task: tuple[Block, pa.Table]) -> Described:
    """Return what the catalogue says of a block, given its subjects' own columns; ``draws`` adds the table of draws."""
    block, metadata = task
    subjects = len(block.rows) + len(block.left)
    if block.posterior is None:
        return Described(subjects, {}, block.left)
    rng = np.random.default_rng([seed, block.start])
    told = (settings.votes, settings.information_votes, rng)
    table = catalogue.table(block.posterior, metadata, *told, doubt_votes=settings.doubt_votes)
    tables = {MAIN: [table]} | ({DRAWS: list(catalogue.draws_tables(block.posterior))} if draws else {})
    return Described(subjects, tables, block.left)


def joined(described: Sequence[Described]) -> dict[str, list[pa.Table]]:
    """Return the pieces of several blocks' tables, one after another."""
    names = dict.fromkeys(name for one in described for name in one.tables)
    return {name: [table for one in described for table in one.tables.get(name, [])] for name in names}
