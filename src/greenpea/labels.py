"""Class labels: one question, one vote a subject. Numpy only.

The posterior of labels is a `Posterior` on a tree of one question, so that all that knows votes knows labels: fractions
are the probabilities of the classes. The network may learn how noisy a subject's logits are (Kendall & Gal 2017): given
the weights of a draw, logits are Gaussian, f + σ∘ε, and the class has the probability E softmax(f + σ∘ε). How far
that noise moves the probabilities is kept as the concentration of a Dirichlet with their mean and variance: for one
label the likelihood is exact, and the noise's part of the doubt is told apart from the weights'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax, xlogy
from scipy.stats import norm, qmc

from greenpea.errors import GreenpeaError, did_you_mean
from greenpea.posterior import Posterior
from greenpea.tree import DecisionTree, slugify
from greenpea.votes import Votes

Noise = Literal["each", "shared", "none"]
POINTS = 64  # of noise at which softmax is averaged, half of them the others' mirror images
BLOCK = 4_000_000  # numbers held at once
CONCENTRATION = (1e-3, 1e6)  # of the Dirichlet that stands for the noise
SMALLEST = 1e-12  # probability


@dataclass(frozen=True)
class LabelLayout:
    """Which outputs of a head are what: a logit a class, then what the noise of the logits is learned with.

    ``noise``: ``each`` logit has a variance σ² of its own, all have one ``shared``, or there is ``none``; the output
    is softplus⁻¹ σ². ``question`` is the slug of the tree's one question.
    """

    classes: tuple[str, ...]
    noise: Noise = "each"
    question: str = "label"

    @classmethod
    def of(cls, labels: Sequence[str] | np.ndarray, noise: Noise = "each", question: str = "label") -> LabelLayout:
        """Return the layout of the classes that occur in ``labels``, in alphabetical order; empty is unknown."""
        return cls(tuple(sorted({str(label) for label in labels} - {""})), noise, question)

    @cached_property
    def tree(self) -> DecisionTree:
        """The tree of one question. Raises GreenpeaError for fewer than two classes, or two of one slug."""
        slugs = [slugify(name) for name in self.classes]
        if len(self.classes) < 2 or len(set(slugs)) < len(slugs) or not all(slugs):
            raise GreenpeaError(
                f"the classes {', '.join(map(repr, self.classes)) or '(none)'} do not make a question: two or more are "
                f"needed, each with letters or digits that tell it from the others"
            )
        answers = [{"slug": slug, "text": name} for slug, name in zip(slugs, self.classes, strict=True)]
        question = {"slug": self.question, "text": self.question, "answers": answers}
        return DecisionTree.model_validate({"name": self.question, "questions": [question]})

    @property
    def outputs(self) -> int:
        """How many outputs there are."""
        return len(self.classes) + {"each": len(self.classes), "shared": 1, "none": 0}[self.noise]

    def codes(self, labels: Sequence[str] | np.ndarray) -> Int[np.ndarray, " subject"]:
        """Return the place of every label among the classes; −1 for an empty one, which is unknown.

        Raises GreenpeaError, with the row, for a label that is no class.
        """
        places = {"": -1} | {name: place for place, name in enumerate(self.classes)}
        found = np.array([places.get(str(label), -2) for label in labels], np.int64)
        for row in np.flatnonzero(found == -2)[:1]:
            name = str(labels[row])
            raise GreenpeaError(f"label {name!r} in row {row} is no class{did_you_mean(name, self.classes)}")
        return found

    def votes(self, codes: Int[np.ndarray, " subject"], subject_ids: np.ndarray) -> Votes:
        """Return labels as one vote each, so that what judges votes judges them; −1 is no vote."""
        counts = np.zeros((len(codes), len(self.classes)), np.int64)
        known = np.flatnonzero(codes >= 0)
        counts[known, codes[known]] = 1
        return Votes(self.tree, subject_ids, {self.question: counts}, {self.question: (codes >= 0).astype(np.int64)})

    def variances(self, outputs: Float[np.ndarray, "... output"]) -> Float[np.ndarray, "... noise"]:
        """Return the learned variances σ² of the logits: one a class, one, or none (Kendall & Gal 2017)."""
        return np.logaddexp(0.0, outputs[..., len(self.classes) :])

    def posterior(
        self,
        outputs: Float[np.ndarray, "subject draw output"],
        subject_ids: np.ndarray,
        distance: Float[np.ndarray, " subject"] | None = None,
    ) -> Posterior:
        """Return the posterior that outputs stand for."""
        by_draw = np.asarray(outputs, np.float64).transpose(1, 0, 2)
        if self.noise == "none":
            family, parameters = "multinomial", softmax(by_draw, axis=-1)
        else:
            family, parameters = "dirichlet-multinomial", self._concentrations(by_draw)
        return Posterior(self.tree, subject_ids, {self.question: family}, {self.question: parameters}, distance)

    def _concentrations(self, outputs: Float[np.ndarray, "draw subject output"]) -> Float[np.ndarray, "draw subject c"]:
        """Return the Dirichlets that have the mean and the total variance of softmax(f + σ∘ε)."""
        classes = len(self.classes)
        points = noise_points(classes)
        flat = outputs.reshape(-1, outputs.shape[-1])
        alpha = np.empty((len(flat), classes))
        step = max(1, BLOCK // points.size)
        for start in range(0, len(flat), step):
            rows = slice(start, start + step)
            deviations = np.sqrt(self.variances(flat[rows]))
            p = softmax(flat[rows, None, :classes] + deviations[:, None] * points, axis=-1)
            mean = p.mean(axis=1)
            spread = p.var(axis=1).sum(axis=-1, keepdims=True)
            # Σ Var = (1 − Σ p²)/(α₀ + 1) for a Dirichlet
            total = (1 - np.square(mean).sum(axis=-1, keepdims=True)) / np.maximum(spread, 1e-300) - 1
            alpha[rows] = np.clip(total, *CONCENTRATION) * np.maximum(mean, SMALLEST)
        return alpha.reshape(*outputs.shape[:2], classes)


@lru_cache(maxsize=8)
def noise_points(classes: int) -> Float[np.ndarray, "point logit"]:
    """Return standard normal points that fill space evenly (Sobol, scrambled) and sum to 0: always the same."""
    half = norm.ppf(qmc.Sobol(classes, seed=0).random(POINTS // 2))
    return np.concatenate([half, -half])


class Doubt(NamedTuple):
    """Entropy of a subject's label, in nats, and its two parts."""

    total: Float[np.ndarray, " subject"]
    epistemic: Float[np.ndarray, " subject"]  # I(label; weights): what more training subjects would take away
    aleatoric: Float[np.ndarray, " subject"]  # E_t H(label | draw t): what they would not


def doubt(posterior: Posterior, question: str = "label") -> Doubt:
    """Return the entropy of the next label, and its parts (Houlsby+2011; Kendall & Gal 2017)."""
    fractions = posterior.fractions(question)
    total = _entropy(posterior.average(fractions))
    # H[E_t p_t] = I + E_t H[p_t]
    aleatoric = posterior.average(_entropy(fractions))
    return Doubt(total, np.maximum(total - aleatoric, 0.0), aleatoric)


def _entropy(p: Float[np.ndarray, "*batch answer"]) -> Float[np.ndarray, "*batch"]:
    return -xlogy(p, p).sum(axis=-1)
