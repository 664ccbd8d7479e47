"""Rounds of active learning: collect votes, fit, gate, predict, rank, publish, retire, record; and the loop of them."""

from greenpea.rounds.loop import loop
from greenpea.rounds.steps import roll_back, run

__all__ = ["loop", "roll_back", "run"]
