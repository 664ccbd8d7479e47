"""Fitting a head on a frozen encoder: the votes' likelihood with its slope, and the most probable weights.

Everything in float64. Gradients are written out, on the rows that were asked only, and ln Γ is never called: over
whole numbers of votes ln (α)_k is a short product, and its slope a short sum, which costs a few operations a vote.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from greenpea.errors import GreenpeaError
from greenpea.learning.uncertainty import laplace
from greenpea.outputs import LOG_CONCENTRATION, SMALLEST_LOG, Layout

LOOSE = 100.0  # the bias is held so many times more loosely than the weights
FACTORS = 32  # of a product before its logarithm is taken: e^14 to the 32nd is still a float64
SCALED_BY, AVERAGED = 2048, 256  # subjects whose embeddings, and whose curvature, give the fit its scales
FIRST_STEPS = 10  # from the anchor, before the scales are taken anew
ENOUGH = 1e-6  # share of −ln p that a step must gain
SMALLEST = float(np.exp(SMALLEST_LOG))


@contextmanager
def one_thread() -> Iterator[None]:
    """Work on one thread: on small matrices, threads that wait for each other cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_bias(embeddings: Tensor) -> Tensor:
    """Return [subject, embedding + 1] in float64, ones in the last column."""
    return torch.cat([embeddings.double(), torch.ones(len(embeddings), 1, dtype=torch.float64)], dim=1)


def stiffness(rows: int, precision: float) -> Tensor:
    """Return the Gaussian prior's precision of every row of a head [row, 1]: that of the bias, last, is looser."""
    values = torch.full((rows, 1), precision, dtype=torch.float64)
    values[-1] = precision / LOOSE
    return values


@dataclass(frozen=True, eq=False)
class _Asked:
    """One question: who was asked, and what they said. Outputs run along the first axis, subjects along the last.

    Of a ``multiple`` question every answer is a question of its own, yes against no: its ``counts`` are all yeses,
    then all noes.
    """

    rows: Tensor | None  # None: everybody was asked
    logits: slice  # of the outputs
    spread: slice
    counts: Tensor  # [answer or 2·answer, row]
    n: Tensor  # [1 or answer, row]

    def read(self, outputs: Tensor, which: slice) -> Tensor:
        """Return some of the outputs [output, subject] of those who were asked."""
        return outputs[which] if self.rows is None else outputs[which].index_select(1, self.rows)

    def write(self, outputs: Tensor, which: slice, values: Tensor) -> None:
        """Put values in the place that `read` reads."""
        if self.rows is None:
            outputs[which] = values
        else:
            outputs[which].index_copy_(1, self.rows, values)

    def fractions(self, outputs: Tensor) -> Tensor:
        """Return the fractions that belong to ``counts``."""
        logits = self.read(outputs, self.logits)
        if len(self.counts) > len(logits):
            return torch.cat([logits.sigmoid(), (-logits).sigmoid()])
        power = (logits - logits.amax(0)).exp_()
        return power.div_(power.sum(0))

    def per_question(self, values: Tensor) -> Tensor:
        """Return ``values``, laid out as ``counts``, summed over the answers of each question: laid out as ``n``."""
        return values.reshape(-1, len(self.n), values.shape[1]).sum(0)


class Rises:
    """ln (x)_k and its slope Σ_{j<k} 1/(x + j) for many pairs at once, k whole numbers known beforehand."""

    def __init__(self, k: Tensor) -> None:
        self.order = torch.argsort(k, descending=True, stable=True)
        most = int(k.max().item()) if len(k) else 0
        more = torch.bincount(k.long(), minlength=most + 1).flip(0).cumsum(0).flip(0)
        self.active = more[1:].tolist()  # how many pairs have k > j, j = 0, 1, …

    def __call__(self, x: Tensor) -> tuple[float, Tensor]:
        """Return the sum of all ln (x)_k, and the slopes in the order of ``x``."""
        x = x[self.order]
        product, slope = torch.ones_like(x), torch.zeros_like(x)
        log = 0.0
        for j, count in enumerate(self.active):
            term = x[:count] + j
            product[:count].mul_(term)
            slope[:count].add_(term.reciprocal_())
            if j % FACTORS == FACTORS - 1:
                log += float(product.log().sum())
                product.fill_(1.0)
        out = torch.empty_like(slope)
        out[self.order] = slope
        return log + float(product.log().sum()), out


class Objective:
    """−ln p(votes | head) in nats, without the combinatorial terms, which no head changes; and its slope."""

    def __init__(self, layout: Layout, embeddings: Tensor, packed: Tensor) -> None:
        self.layout, self.packed, self.inputs = layout, packed, with_bias(embeddings)
        self.asked = list(_asked(layout, packed.double()))
        if layout.spread and self.asked:
            counts = torch.cat([one.counts.reshape(-1) for one in self.asked])
            self.used = torch.nonzero(counts > 0)[:, 0]
            self.answers = Rises(counts[self.used])
            self.totals = Rises(torch.cat([one.n.reshape(-1) for one in self.asked]))

    @cached_property
    def moments(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The eigenvalues and eigenvectors of Σ z zᵀ over those who were asked, question by question."""
        step = -(-len(self.inputs) // SCALED_BY)
        found = {}
        every_reached = self.packed[::step].T[-len(self.layout.slices) :]
        for slug, reached in zip(self.layout.tree.slugs, every_reached, strict=True):
            z = self.inputs[::step][reached > 0]
            values, vectors = torch.linalg.eigh(z.T @ z * step)
            found[slug] = values.clamp_min(0), vectors
        return found

    def value(self, head: Tensor) -> float:
        """Return −ln p of the votes under ``head`` [embedding + 1, output]."""
        return self._likelihood(head.T @ self.inputs.T)[0]

    def value_and_slope(self, head: Tensor) -> tuple[float, Tensor]:
        """Return −ln p of the votes and its gradient, [embedding + 1, output]."""
        value, slope = self._likelihood(head.T @ self.inputs.T)
        return value, (slope @ self.inputs).T

    def _likelihood(self, outputs: Tensor) -> tuple[float, Tensor]:
        """Return −ln p and its slope, of outputs [output, subject]."""
        slope = torch.zeros_like(outputs)
        if not self.asked:
            return 0.0, slope
        return (self._spread if self.layout.spread else self._points)(outputs, slope)

    def _points(self, outputs: Tensor, slope: Tensor) -> tuple[float, Tensor]:
        """ln p = Σ k ln f, with the slope k − n f."""
        value = 0.0
        for one in self.asked:
            f = one.fractions(outputs)
            value -= float((one.counts * f.clamp_min(SMALLEST).log()).sum())
            answers = one.logits.stop - one.logits.start
            one.write(slope, one.logits, one.n * f[:answers] - one.counts[:answers])
        return value, slope

    def _spread(self, outputs: Tensor, slope: Tensor) -> tuple[float, Tensor]:
        """ln p = Σ ln (α)_k − ln (s)_n, α = s f; with h = ∂/∂ln α: ∂/∂logit = h − f Σ h and ∂/∂ln s = Σ h."""
        fractions = [one.fractions(outputs) for one in self.asked]
        ln_s = [one.read(outputs, one.spread) for one in self.asked]
        s = [values.clamp(*LOG_CONCENTRATION).exp_() for values in ln_s]
        alpha = [_times(f, values).clamp_min_(SMALLEST) for f, values in zip(fractions, s, strict=True)]
        flat = torch.cat([part.reshape(-1) for part in alpha])
        risen, of_answers = self.answers(flat[self.used])
        fallen, of_totals = self.totals(torch.cat([part.reshape(-1) for part in s]))
        by_alpha = torch.zeros_like(flat)
        by_alpha[self.used] = of_answers
        parts = zip(by_alpha.split([a.numel() for a in alpha]), of_totals.split([a.numel() for a in s]), strict=True)
        for one, f, a, raw, (answer, total) in zip(self.asked, fractions, alpha, ln_s, parts, strict=True):
            h = a * _minus(answer.reshape(a.shape), total.reshape(one.n.shape))
            common = one.per_question(h)
            inside = (raw > LOG_CONCENTRATION[0]) & (raw < LOG_CONCENTRATION[1])
            answers = one.logits.stop - one.logits.start
            one.write(slope, one.logits, f[:answers] * common - h[:answers])
            one.write(slope, one.spread, -common * inside)
        return fallen - risen, slope


def _times(values: Tensor, each: Tensor) -> Tensor:
    """Return values laid out as counts, times what is laid out as n."""
    return (values.reshape(-1, *each.shape) * each).reshape(values.shape)


def _minus(values: Tensor, each: Tensor) -> Tensor:
    """Return values laid out as counts, less what is laid out as n."""
    return (values.reshape(-1, *each.shape) - each).reshape(values.shape)


def _asked(layout: Layout, packed: Tensor) -> Iterator[_Asked]:
    """Yield the questions that anybody was asked."""
    questions, start = layout.tree.questions, 0
    for index, question in enumerate(questions):
        answers, part = len(question.answers), layout.slices[question.slug]
        n = packed[:, index - len(questions)]
        rows = torch.nonzero(n > 0)[:, 0]
        counts, n = packed[rows, start : start + answers].T.contiguous(), n[rows][None]
        start += answers
        if question.kind == "multiple":
            counts, n = torch.cat([counts, n - counts]), n.repeat(answers, 1)
        middle = part.start + answers
        if len(rows):
            everybody = len(rows) == len(packed)
            yield _Asked(None if everybody else rows, slice(part.start, middle), slice(middle, part.stop), counts, n)


class Scales:
    """Coordinates in which the objective is round: per question, a Kronecker product of the embeddings' second
    moments and the mean Fisher information of a subject's votes (Martens & Grosse 2015), at the head ``near``.
    """

    def __init__(self, objective: Objective, anchor: Tensor, near: Tensor, precision: float) -> None:
        self.anchor, self.parts = anchor, []
        layout = objective.layout
        for slug, part in layout.slices.items():
            a, left = objective.moments[slug]
            b, right = _eigen(layout, slug, _mean_fisher(objective, slug, near))
            self.parts.append((part, left, right, (a[:, None] * b.clamp_min(0) + precision).rsqrt()))

    def to_head(self, flat: np.ndarray) -> Tensor:
        """Return the head at these coordinates."""
        round_ = torch.from_numpy(flat).reshape(self.anchor.shape)
        head = self.anchor.clone()
        for part, left, right, scale in self.parts:
            head[:, part] += left @ ((round_[:, part] * scale) @ right.T)
        return head

    def slope(self, of_head: Tensor) -> np.ndarray:
        """Return the gradient in these coordinates from that by the head's weights."""
        out = torch.empty_like(self.anchor)
        for part, left, right, scale in self.parts:
            out[:, part] = (left.T @ (of_head[:, part] @ right)) * scale
        return out.numpy().ravel()

    def of_head(self, head: Tensor) -> np.ndarray:
        """Return the coordinates of a head."""
        out = torch.empty_like(self.anchor)
        for part, left, right, scale in self.parts:
            out[:, part] = (left.T @ ((head - self.anchor)[:, part] @ right)) / scale
        return out.numpy().ravel()


def _eigen(layout: Layout, slug: str, fisher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues and eigenvectors of a question's Fisher information, group by group."""
    values, vectors = torch.zeros(len(fisher)).double(), torch.zeros_like(fisher)
    for of, columns in laplace.groups(layout).values():
        if of == slug:
            local = torch.tensor(columns) - layout.slices[slug].start
            values[local], found = torch.linalg.eigh(fisher[local[:, None], local])
            vectors[local[:, None], local] = found
    return values, vectors


def _mean_fisher(objective: Objective, slug: str, near: Tensor) -> Tensor:
    """Return the mean Fisher information about a question's outputs, over some of those who were asked."""
    part, index = objective.layout.slices[slug], objective.layout.tree.slugs.index(slug)
    reached = objective.packed[:, index - len(objective.layout.tree.slugs)].double()
    asked = torch.nonzero(reached > 0)[:, 0]
    if not len(asked):
        return torch.zeros(part.stop - part.start, part.stop - part.start, dtype=torch.float64)
    some = asked[:: -(-len(asked) // AVERAGED)]
    return laplace.output_fisher(objective.layout, slug, objective.inputs[some] @ near[:, part], reached[some]).mean(0)


def refit(
    layout: Layout,
    embeddings: Tensor,
    packed: Tensor,
    prior: Tensor,
    precision: float,
    iterations: int = 200,
) -> Tensor:
    """Return the most probable head [embedding + 1, output] for these votes, in ``prior``'s precision.

    Minimises −ln p(votes) + ½ ``precision`` ‖W − ``prior``‖²; see `most_probable`.
    """
    with one_thread():
        objective = Objective(layout, embeddings, packed)
        return most_probable(objective, prior.double(), precision, None, iterations).to(prior.dtype)


def most_probable(
    objective: Objective, anchor: Tensor, precision: float, start: Tensor | None = None, iterations: int = 200
) -> Tensor:
    """Return the head that minimises −ln p(votes) + ½ ``precision`` ‖W − ``anchor``‖², the bias held more loosely.

    L-BFGS in the coordinates of `Scales`, from ``start``; without one from the anchor, the scales then being taken
    anew after a few steps. Each iteration is one product of the embeddings with the weights, and its transpose. It
    ends where a step gains less than `ENOUGH` of the likelihood: a draw of the head is thousands of nats away.
    Raises GreenpeaError where it diverges.
    """
    if start is None:
        start = _minimised(objective, anchor, precision, anchor, min(FIRST_STEPS, iterations))
    return _minimised(objective, anchor, precision, start, iterations)


def _minimised(objective: Objective, anchor: Tensor, precision: float, start: Tensor, iterations: int) -> Tensor:
    stiff = stiffness(len(anchor), precision)
    scales = Scales(objective, anchor, start, precision)

    def value_and_slope(flat: np.ndarray) -> tuple[float, np.ndarray]:
        head = scales.to_head(flat)
        value, slope = objective.value_and_slope(head)
        apart = head - anchor
        return value + 0.5 * float((stiff * apart**2).sum()), scales.slope(slope + stiff * apart)

    options = {"maxiter": iterations, "maxcor": 20, "ftol": ENOUGH}
    found = minimize(value_and_slope, scales.of_head(start), jac=True, method="L-BFGS-B", options=options)
    head = scales.to_head(found.x)
    if not (np.isfinite(found.fun) and bool(torch.isfinite(head).all())):
        raise GreenpeaError(
            f"the fit of the head diverged: −ln p of its {len(objective.inputs):,} subjects' votes became "
            f"{found.fun} with a prior precision of {precision:g}. Look for embeddings of extreme size"
        )
    return head
