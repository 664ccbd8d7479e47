"""Posteriors and votes written by hand, for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from greenpea.posterior import Posterior
from greenpea.tree import DecisionTree


def one_question(answers: int, kind: str = "single") -> DecisionTree:
    """A tree of one question ``q`` with answers ``a0``, ``a1``, …"""
    question = {"slug": "q", "kind": kind, "answers": [{"slug": f"a{i}"} for i in range(answers)]}
    return DecisionTree.model_validate({"name": "one", "questions": [question]})


def posterior(parameters: np.ndarray, family: str = "dirichlet-multinomial") -> Posterior:
    """A posterior on `one_question` from parameters [draw, subject, answer, …]."""
    kind = "single" if family.endswith("multinomial") else "multiple"
    ids = np.array([f"s{i}" for i in range(parameters.shape[1])], dtype=object)
    return Posterior(one_question(parameters.shape[2], kind), ids, {"q": family}, {"q": parameters})


def opposite_draws() -> Posterior:
    """One subject, five draws that disagree (REFERENCE §1: what zoobot's median of quantiles throws away)."""
    pairs: Sequence[tuple[float, float]] = [(95, 5), (5, 95), (95, 5), (5, 95), (50, 50)]
    return posterior(np.array(pairs, float)[:, None, :])


def galaxy_tree() -> DecisionTree:
    """A small tree with a diamond and a ``multiple`` question."""
    return DecisionTree.model_validate(
        {
            "name": "small",
            "questions": [
                {"slug": "smooth", "answers": [{"slug": "yes", "next": "merging"}, {"slug": "no", "next": "bar"},
                                               {"slug": "artifact"}]},
                {"slug": "bar", "answers": [{"slug": "no", "next": "merging"}, {"slug": "yes", "next": "merging"}]},
                {"slug": "merging", "answers": [{"slug": "yes", "next": "rare"}, {"slug": "no", "next": "rare"}]},
                {"slug": "rare", "kind": "multiple", "answers": [{"slug": "ring"}, {"slug": "lens"}]},
            ],
        }
    )  # fmt: skip


def random_posterior(
    tree: DecisionTree,
    draws: int,
    subjects: int,
    rng: np.random.Generator,
    spread: float = 0.5,
    scale: float = 4.0,
) -> Posterior:
    """Concentrations around ``scale``, different per subject, and per draw by ``spread`` in the logarithm."""
    families, parameters = {}, {}
    for question in tree.questions:
        shape = (subjects, len(question.answers)) + ((2,) if question.kind == "multiple" else ())
        families[question.slug] = "beta-binomial" if question.kind == "multiple" else "dirichlet-multinomial"
        log_alpha = rng.normal(0, 1, (1, *shape)) + rng.normal(0, spread, (draws, *shape))
        parameters[question.slug] = scale * np.exp(log_alpha)
    ids = np.array([f"s{i}" for i in range(subjects)], dtype=object)
    return Posterior(tree, ids, families, parameters)
