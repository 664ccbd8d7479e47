"""Human and machine together: the posterior of a subject given its image and its own votes.

The network's posterior is the prior, the votes are the evidence: draws under which the votes were likely gain
weight, and each draw's distribution of the vote fractions is updated exactly, since a Dirichlet (a beta) is
conjugate to the counts. No approximation enters but the number of draws.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from greenpea.errors import GreenpeaError
from greenpea.posterior import Posterior
from greenpea.votes import Votes


def combine(posterior: Posterior, votes: Votes) -> Posterior:
    """Return the posterior given image *and* votes, of the same subjects in the same order.

    With k the counts over all questions together, n those who reached a question, and t the draws:
    w_t ∝ w_t p(k | t); α + k where the family is Dirichlet–multinomial, (α + k, β + n − k) where it is
    beta-binomial. The fractions of multinomial and binomial draws have no spread to update: those draws are
    only re-weighted. Costs one log-pmf per draw, subject and question.

    The votes of a subject must not have trained the head that predicted it, or they would count twice: take the
    head of a fold that the subject is not in. `Posterior.effective_draws` says how many draws are left to speak
    of; where it is small, combine more of them.

    A subject without votes comes back as it was; one whose votes no draw holds possible keeps its weights.
    Raises GreenpeaError where the votes are of another tree, or of other subjects.
    """
    _check(posterior, votes)
    return Posterior(
        tree=posterior.tree,
        subject_ids=posterior.subject_ids,
        families=posterior.families,
        parameters={slug: _updated(posterior, slug, votes) for slug in posterior.tree.slugs},
        distance=posterior.distance,
        weights=_reweighted(posterior, votes),
    )


def _check(posterior: Posterior, votes: Votes) -> None:
    if posterior.tree.structure != votes.tree.structure:
        raise GreenpeaError(
            f"the votes were cast on the tree {votes.tree.name!r}, the posterior is on {posterior.tree.name!r}: "
            f"predict with a model of the same questions and answers"
        )
    if not np.array_equal(posterior.subject_ids, votes.subject_ids):
        raise GreenpeaError(
            "posterior and votes are not of the same subjects in the same order: use votes.align(posterior.subject_ids)"
        )


def _reweighted(posterior: Posterior, votes: Votes) -> Float[np.ndarray, "draw subject"] | None:
    if not votes.total.any():
        return posterior.weights
    prior = posterior.log_weights
    # ln w_t + Σ_q ln p(k_q | t)
    log_w = prior + sum(
        posterior.log_likelihood(slug, votes.counts[slug], votes.reached[slug]) for slug in posterior.tree.slugs
    )
    evidence = logsumexp(log_w, axis=0)
    told = (votes.total > 0) & np.isfinite(evidence)
    return np.exp(np.where(told, log_w - np.where(told, evidence, 0.0), prior))


def _updated(posterior: Posterior, question: str, votes: Votes) -> Float[np.ndarray, "draw subject ..."]:
    family, parameters = posterior.families[question], posterior.parameters[question]
    k = votes.counts[question]
    if family == "dirichlet-multinomial":
        return np.asarray(parameters, np.float64) + k
    if family == "beta-binomial":
        return np.asarray(parameters, np.float64) + np.stack([k, votes.reached[question][:, None] - k], axis=-1)
    return parameters
