"""Rounds of active learning: collect votes, fit, gate, predict, rank, publish, retire, record; and the loop of them."""

from greenpea.rounds.loop import loop
from greenpea.rounds.steps import audit_set, roll_back, run

__all__ = ["audit_set", "loop", "roll_back", "run"]
