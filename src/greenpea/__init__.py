"""Greenpea: people and Bayesian networks classify images together.

The names below are imported when they are first used, so that looking at a tree does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from greenpea.campaign import Campaign as Campaign
    from greenpea.creation import create as create
    from greenpea.posterior import Posterior as Posterior
    from greenpea.tree import DecisionTree as DecisionTree
    from greenpea.vote_tables import read_votes as read_votes
    from greenpea.votes import Votes as Votes

_HOMES = {
    "Campaign": "greenpea.campaign",
    "create": "greenpea.creation",
    "DecisionTree": "greenpea.tree",
    "Posterior": "greenpea.posterior",
    "Votes": "greenpea.votes",
    "read_votes": "greenpea.vote_tables",
}
__all__ = sorted(_HOMES)
__version__ = version("greenpea")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'greenpea' has no attribute {name!r}")
