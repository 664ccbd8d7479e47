"""Rounds of active learning: collect votes, fit, gate, predict, rank, publish, retire, record; and the loop of them."""

from greenpea.rounds.collecting import audit_set
from greenpea.rounds.loop import loop
from greenpea.rounds.steps import roll_back, run
from greenpea.rounds.tuning import run as tune

__all__ = ["audit_set", "loop", "roll_back", "run", "tune"]
