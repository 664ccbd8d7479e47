"""Maps that correct probabilities of classes, one published method each, the same two calls.

Fit on a validation split, then apply to anything. Never fit one on what it will be judged by.

=============  =============================================  =========  ===============================================
name           q(p)                                           numbers    source
=============  =============================================  =========  ===============================================
temperature    softmax(ln p / T)                              1          Guo+2017
vector         softmax(w ∘ ln p + b)                          2C − 1     Guo+2017
isotonic       a rising step function a class, normalised     many       Zadrozny & Elkan 2002
beta           logit q_c = a ln p_c − b ln(1 − p_c) + c       3C         Kull, Silva Filho & Flach 2017; normalised
dirichlet      softmax(W ln p + b)                            C² + C − 1 Kull+2019
=============  =============================================  =========  ===============================================

`temperature` leaves the order of classes as it is. Posteriors of votes, and of labels draw by draw, have
`greenpea.calibration.recalibrate`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, log_softmax, softmax

from greenpea.calibration.labels import check, log_score, one_hot
from greenpea.errors import GreenpeaError, did_you_mean

SMALLEST = 1e-12  # probability that is told from 0
SOFT = 1e-6  # ridge per subject on logistic weights, so that separable labels have a finite fit
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # tried for Dirichlet calibration, by cross-validation
FOLDS = 5

Probabilities = Float[np.ndarray, "subject answer"]


class Map(Protocol):
    """Probabilities → probabilities."""

    def apply(self, probabilities: Probabilities) -> Probabilities:
        """Return corrected probabilities."""


def fit(name: str, probabilities: Probabilities, codes: Int[np.ndarray, " subject"]) -> Map:
    """Fit the map of this name on validation subjects. Raises GreenpeaError naming the maps there are."""
    if name not in MAPS:
        raise GreenpeaError(f"no map {name!r}{did_you_mean(name, MAPS)}; there are {', '.join(MAPS)}")
    check(probabilities, codes)
    return MAPS[name](np.asarray(probabilities, np.float64), codes)


def _logs(probabilities: Probabilities) -> Probabilities:
    return np.log(np.maximum(probabilities, SMALLEST))


def _normalised(values: Probabilities) -> Probabilities:
    """Return rows that sum to 1; even ones where a row is all 0."""
    total = values.sum(axis=1, keepdims=True)
    return np.where(total > 0, values / np.where(total > 0, total, 1.0), 1 / values.shape[1])


# ---- of logits ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Temperature:
    """q = softmax(ln p / T): T > 1 for probabilities that are too sure."""

    temperature: float

    def apply(self, probabilities: Probabilities) -> Probabilities:
        return softmax(_logs(probabilities) / self.temperature, axis=1)


def fit_temperature(probabilities: Probabilities, codes: Int[np.ndarray, " subject"]) -> Temperature:
    """Return the temperature of greatest likelihood."""
    logs = _logs(probabilities)
    rows = np.arange(len(codes))

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        # q = softmax(β ln p), β = 1/T; ∂ ln q_y/∂β = ln p_y − Σ q ln p
        logits = np.exp(x[0]) * logs
        log_q = log_softmax(logits, axis=1)
        slope = logs[rows, codes] - (np.exp(log_q) * logs).sum(axis=1)
        return float(-log_q[rows, codes].mean()), np.array([-slope.mean() * np.exp(x[0])])

    found = minimize(loss, np.zeros(1), jac=True, method="L-BFGS-B", bounds=[(-5, 5)]).x
    return Temperature(float(np.exp(-found[0])))


@dataclass(frozen=True, eq=False)
class Linear:
    """q = softmax(W ln p + b); W is diagonal for vector scaling, full for Dirichlet calibration."""

    weights: Float[np.ndarray, "answer answer2"]
    bias: Float[np.ndarray, " answer"]

    def apply(self, probabilities: Probabilities) -> Probabilities:
        return softmax(_logs(probabilities) @ self.weights.T + self.bias, axis=1)


def fit_vector(probabilities: Probabilities, codes: Int[np.ndarray, " subject"]) -> Linear:
    """Return vector scaling of greatest likelihood: a weight and a bias a class."""
    logs, truth = _logs(probabilities), one_hot(codes, probabilities.shape[1])
    classes = logs.shape[1]

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = x[:classes], x[classes:]
        log_q = log_softmax(logs * w + b, axis=1)
        error = np.exp(log_q) - truth
        value = -(truth * log_q).sum(axis=1).mean() + SOFT * ((w - 1) ** 2).sum() + SOFT * (b**2).sum()
        slope = np.concatenate([(error * logs).mean(axis=0) + 2 * SOFT * (w - 1), error.mean(axis=0) + 2 * SOFT * b])
        return float(value), slope

    start = np.concatenate([np.ones(classes), np.zeros(classes)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return Linear(np.diag(found[:classes]), found[classes:])


def fit_dirichlet(
    probabilities: Probabilities, codes: Int[np.ndarray, " subject"], penalty: float | None = None
) -> Linear:
    """Return Dirichlet calibration: a full matrix, its off-diagonal and bias held towards 0 (ODIR).

    Without a ``penalty`` the one of `PENALTIES` that predicts best in cross-validation on these subjects.
    """
    if penalty is None:
        penalty = min(PENALTIES, key=lambda one: _cross_validated(probabilities, codes, one))
    logs, truth = _logs(probabilities), one_hot(codes, probabilities.shape[1])
    classes = logs.shape[1]
    off = 1 - np.eye(classes)
    per_weight, per_bias = penalty / max(1, classes * (classes - 1)), penalty / classes

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = x[: classes**2].reshape(classes, classes), x[classes**2 :]
        log_q = log_softmax(logs @ w.T + b, axis=1)
        error = (np.exp(log_q) - truth) / len(codes)
        held = per_weight * (off * w**2).sum() + per_bias * (b**2).sum() + SOFT * ((np.diag(w) - 1) ** 2).sum()
        by_w = error.T @ logs + 2 * per_weight * off * w + 2 * SOFT * np.diag(np.diag(w) - 1)
        by_b = error.sum(axis=0) + 2 * per_bias * b
        return float(-(truth * log_q).sum() / len(codes) + held), np.concatenate([by_w.ravel(), by_b])

    start = np.concatenate([np.eye(classes).ravel(), np.zeros(classes)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return Linear(found[: classes**2].reshape(classes, classes), found[classes**2 :])


def _cross_validated(probabilities: Probabilities, codes: Int[np.ndarray, " subject"], penalty: float) -> float:
    """Return the log score of Dirichlet calibration on subjects it was not fitted on, summed over folds."""
    fold = np.random.default_rng(0).permutation(len(codes)) % FOLDS
    total = 0.0
    for index in range(FOLDS):
        train, test = fold != index, fold == index
        if train.any() and test.any():
            found = fit_dirichlet(probabilities[train], codes[train], penalty)
            total += float(log_score(found.apply(probabilities[test]), codes[test]).sum())
    return total


# ---- class by class ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Isotonic:
    """Per class a function that rises in steps, from the probability to the frequency; then normalised."""

    inputs: tuple[Float[np.ndarray, " step"], ...]
    outputs: tuple[Float[np.ndarray, " step"], ...]

    def apply(self, probabilities: Probabilities) -> Probabilities:
        columns = [
            np.interp(column, x, y) for column, x, y in zip(probabilities.T, self.inputs, self.outputs, strict=True)
        ]
        return _normalised(np.stack(columns, axis=1))


def fit_isotonic(probabilities: Probabilities, codes: Int[np.ndarray, " subject"]) -> Isotonic:
    """Return isotonic regression, one class against the rest; straight between the steps' ends, flat beyond.

    Frequencies of exactly 0 and 1, for which one surprise costs everything, are held off by half a subject.
    """
    inputs, outputs = [], []
    for place, column in enumerate(probabilities.T):
        x, where, count = np.unique(column, return_inverse=True, return_counts=True)
        frequency = np.bincount(where, codes == place, len(x)) / count
        y = isotonic_regression(frequency, weights=count).x
        half = 0.5 / (len(codes) + 1)
        inputs.append(x)
        outputs.append(np.clip(y, half, 1 - half))
    return Isotonic(tuple(inputs), tuple(outputs))


@dataclass(frozen=True, eq=False)
class Beta:
    """logit q_c = a_c ln p_c − b_c ln(1 − p_c) + c_c, a and b not below 0; then normalised."""

    a: Float[np.ndarray, " answer"]
    b: Float[np.ndarray, " answer"]
    c: Float[np.ndarray, " answer"]

    def apply(self, probabilities: Probabilities) -> Probabilities:
        p = np.clip(probabilities, SMALLEST, 1 - SMALLEST)
        return _normalised(expit(self.a * np.log(p) - self.b * np.log1p(-p) + self.c))


def fit_beta(probabilities: Probabilities, codes: Int[np.ndarray, " subject"]) -> Beta:
    """Return beta calibration, one class against the rest."""
    found = np.array([_fit_beta(column, codes == place) for place, column in enumerate(probabilities.T)])
    return Beta(found[:, 0], found[:, 1], found[:, 2])


def _fit_beta(p: np.ndarray, hit: np.ndarray) -> np.ndarray:
    p = np.clip(p, SMALLEST, 1 - SMALLEST)
    inputs = np.stack([np.log(p), -np.log1p(-p), np.ones_like(p)], axis=1)
    sign = np.where(hit, 1.0, -1.0)
    identity = np.array([1.0, 1.0, 0.0])

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (inputs @ x)
        value = np.logaddexp(0, -margin).mean() + SOFT * ((x - identity) ** 2).sum()
        return float(value), -(sign * expit(-margin)) @ inputs / len(p) + 2 * SOFT * (x - identity)

    bounds = [(0, None), (0, None), (None, None)]
    return np.asarray(minimize(loss, identity, jac=True, method="L-BFGS-B", bounds=bounds).x)


MAPS: dict[str, Callable[[Probabilities, Int[np.ndarray, " subject"]], Map]] = {
    "temperature": fit_temperature,
    "vector": fit_vector,
    "isotonic": fit_isotonic,
    "beta": fit_beta,
    "dirichlet": fit_dirichlet,
}
