"""What more votes would teach: about the network's weights, or about how other subjects will be voted.

Informations are in nats. About the weights (the mutual information of future votes and weights, Houlsby+2011;
Walmsley+2020) they lie between 0 and ln T for T draws. Where the posterior's draws carry weights π, those are the
prior: the bound is then π's entropy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer
from scipy.special import entr, logsumexp

from greenpea.errors import GreenpeaError
from greenpea.posterior import Posterior
from greenpea.tree import DecisionTree

MOST_STATES = 20_000  # count vectors one question may have before enumeration is refused
CHUNK = 512  # subjects worked on at once, at most
NUMBERS = 1 << 21  # numbers that one array may hold while a tree is walked, whatever the subjects and votes
TILE = 1 << 17  # and while walks are judged, where what fits the processor's cache is fastest
NO_WEIGHT = 1e-30  # draws with a smaller share of the mixture are left out of it
WIDE = 1 << 19  # numbers per array while answers are related to others': larger products are faster
KEPT = 0.95  # of what the draws say about the aims, by variance: the rest is many directions with next to nothing
TINY = np.finfo(np.float32).tiny


class Information(NamedTuple):
    """Expected information about the weights, per subject, in nats."""

    value: Float[np.ndarray, " subject"]
    error: Float[np.ndarray, " subject"]  # standard error of the Monte Carlo estimate; 0 where exact


def mutual_information(
    log_p: Float[np.ndarray, "draw *batch state"], log_weights: Float[np.ndarray, "draw *#batch"] | None = None
) -> Float[np.ndarray, "*batch"]:
    """Return H[Σ_t π_t p_t] − Σ_t π_t H[p_t] over the last axis, in nats.

    ``log_p`` are normalised log-pmfs; ``log_weights`` are ln π, by default ln 1/T.
    """
    shares = np.full(log_p.shape[:-1], -np.log(len(log_p))) if log_weights is None else log_weights
    mixture = logsumexp(log_p + shares[..., None], axis=0)
    # I = Σ_t π_t KL(p_t ‖ mixture): every term is at least 0, so rounding cannot make I negative.
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(log_p) | np.isneginf(mixture), 0.0, np.exp(log_p) * (log_p - mixture))
    return np.asarray((np.exp(shares) * np.maximum(terms.sum(axis=-1), 0.0)).sum(axis=0))


def count_vectors(votes: int, answers: int) -> Int[np.ndarray, "state answer"]:
    """Return every way that ``votes`` votes can fall on ``answers`` answers; C(n+A−1, A−1) rows."""
    if answers == 1:
        return np.array([[votes]])
    parts = []
    for first in range(votes + 1):
        rest = count_vectors(votes - first, answers - 1)
        parts.append(np.column_stack([np.full(len(rest), first), rest]))
    return np.concatenate(parts)


def states(votes: int, answers: int) -> int:
    """Return how many count vectors `count_vectors` would list."""
    return comb(votes + answers - 1, answers - 1)


def of_question(posterior: Posterior, question: str, votes: int) -> Float[np.ndarray, " subject"]:
    """Return the exact information that ``votes`` votes on one question carry, by enumeration.

    Raises GreenpeaError for a ``multiple`` question, and above `MOST_STATES` count vectors: there,
    `of_answers` gives a lower bound and `of_tree` an estimate.
    """
    node = posterior.tree[question]
    answers = len(node.answers)
    if node.kind == "multiple":
        raise GreenpeaError(
            f"question {question!r} is 'multiple': use of_answers (a lower bound) or of_tree (an estimate)"
        )
    if states(votes, answers) > MOST_STATES:
        raise GreenpeaError(
            f"{votes} votes on {answers} answers have {states(votes, answers):,} outcomes, more than "
            f"{MOST_STATES:,}: ask about fewer votes, or use of_answers (a lower bound) or of_tree (an estimate)"
        )
    vectors = count_vectors(votes, answers)[:, None, :]
    out = np.empty(len(posterior))
    step = max(1, CHUNK * 200 // len(vectors))
    for start in range(0, len(posterior), step):
        part = posterior.select(np.arange(start, min(start + step, len(posterior))))
        log_p = part.log_likelihood(question, vectors, np.full(vectors.shape[:2], votes))
        out[start : start + step] = mutual_information(np.moveaxis(log_p, 1, -1), part.log_weights)
    return out


def of_answers(posterior: Posterior, question: str, votes: int) -> Float[np.ndarray, "subject answer"]:
    """Return the exact information in each answer's own count, of ``votes`` votes.

    Each is a lower bound of the question's: take the largest, never their sum.
    """
    log_p = np.log(np.maximum(posterior.pmf(question, votes), 1e-300))
    return mutual_information(log_p, np.broadcast_to(posterior.log_weights[..., None], log_p.shape[:-1]))


def of_tree(
    posterior: Posterior,
    votes: int,
    rng: np.random.Generator,
    questions: Sequence[str] | None = None,
    simulations: int | None = None,
) -> Information:
    """Estimate the information that ``votes`` volunteers walking the tree would bring.

    The counts k of volunteers walking the tree are simulated under draws taken by their weights π, and all draws
    re-weighted by w_t ∝ π_t p(k | t); I = E_k KL(w(k) ‖ π). Unbiased, never negative; clipped at the entropy of
    π (ln T where all count alike), which noise could pass. ``questions`` restricts what is learned from (the
    walk stays whole); ``simulations`` per subject, by default as many as there are draws, which then are each
    simulated under once. Near ln T the draws are exhausted: see `saturated`. The error is an upper bound, since
    simulations spread evenly over the draws vary less than independent ones.

    A subject's estimate hangs on ``rng`` and on how many subjects stand before it, not on the block it came in.
    Computed in float32, to about 1e-5 nats. Cost per subject, with R simulations and C cells (answers, and
    questions): R × C × votes steps of the walk, T × C × votes logarithms, R × T × C × votes multiply-adds, less
    where few volunteers come; memory does not grow with the subjects.
    """
    size = simulations or posterior.draws
    walk = _plan(posterior, questions)
    value, error = np.empty(len(posterior)), np.empty(len(posterior))
    for rows in _blocks(len(posterior), max(size, posterior.draws) * max(votes, 1) * walk.urns, NUMBERS):
        terms = _terms(walk, posterior, rows, votes, size, rng)
        value[rows] = terms.mean(axis=1)
        error[rows] = terms.std(axis=1, ddof=1) / np.sqrt(size) if size > 1 else np.inf
    most = np.log(posterior.draws) if posterior.weights is None else entr(posterior.weights).sum(axis=0)
    return Information(np.minimum(value, most), error)


def saturated(value: np.ndarray, draws: int, share: float = 0.9) -> float:
    """Return the share of subjects whose information exceeds ``share`` × ln T: there, more draws are needed."""
    return float(np.mean(value > share * np.log(draws))) if len(value) else 0.0


def simulate_tree(
    posterior: Posterior, votes: int, rng: np.random.Generator
) -> tuple[dict[str, Int[np.ndarray, "draw subject answer"]], dict[str, Int[np.ndarray, "draw subject"]]]:
    """Return counts and reached of ``votes`` volunteers walking the tree, once under every draw."""
    walk = _plan(posterior)
    uniform = rng.random((len(posterior), votes, walk.urns, posterior.draws), np.float32)
    numbers = _simulate(walk, _contents(walk, posterior, slice(None)), votes, uniform).T.astype(np.int64)
    counts, reached = {}, {}
    for stop in walk.stops:
        # Of the two cells that an answer has at a ``multiple`` question, the first counts who gave it.
        counts[stop.question] = numbers[..., stop.cells][..., :: 2 if stop.multiple else 1]
        reached[stop.question] = numbers[..., walk.cells + stop.urns.start]
    slugs = posterior.tree.slugs
    return {slug: counts[slug] for slug in slugs}, {slug: reached[slug] for slug in slugs}


# ---- what answers tell about others -------------------------------------------------------------------


class Aims(NamedTuple):
    """What one would like to know: how the answers of some subjects, the targets, hang on the draws."""

    tree: DecisionTree
    questions: tuple[str, ...]
    factors: tuple[Float[np.ndarray, "draw direction"], ...]  # F of every urn (see "walks"), with K = F Fᵀ


class Prediction(NamedTuple):
    """What the next votes on each subject tell about the targets, and what they take."""

    value: Float[np.ndarray, " subject"]  # nats per target; unbiased, and so below 0 at times
    answers: Float[np.ndarray, " subject"]  # answers that these votes are expected to give, to all questions


def aims(targets: Posterior, questions: Sequence[str] | None = None, kept: float = KEPT) -> Aims:
    """Return what `of_predictions` is to be about: the answers of ``targets`` to ``questions``, by default all.

    K[t, t'] = mean over targets of r Σ_a (p_ta − p̄_a)(p_t'a − p̄_a) / p̄_a, with r the share of volunteers who
    get to the question; as a factor F of few directions, which keep a share ``kept`` of its trace.
    """
    names, walk = _named(targets.tree, questions), _plan(targets)
    kernels = np.zeros((walk.urns, targets.draws, targets.draws), np.float32)
    for rows in _blocks(len(targets), targets.draws * (walk.cells + walk.urns), WIDE):
        for seen in _seen(walk, targets, rows):
            # Over the plain mean, so that K 1 = 0 whatever the weights: where p̄ lies does not matter to δᵀKδ.
            apart = seen.fractions - seen.fractions.mean(axis=-1, keepdims=True)
            apart *= np.sqrt(seen.reach / np.maximum(seen.mean, TINY))[..., None]
            flat = apart.reshape(-1, targets.draws)
            kernels[seen.urn] += flat.T @ flat
    return Aims(targets.tree, names, tuple(_factor(kernel / max(len(targets), 1), kept) for kernel in kernels))


def of_predictions(posterior: Posterior, aims: Aims, votes: int = 1) -> Prediction:
    """Return what ``votes`` more votes on each subject tell about how the targets will be voted, in nats.

    Expected predictive information gain (EPIG, Bickford Smith+2023, eq. 5), from the subject's answer y to a
    question to the next answer y* to the same question of a target, averaged over targets and summed over
    questions, each as often as volunteers get to it (r). With p and p̄ a draw's and the mixture's fractions,

        I(y; y*) = KL(p(y, y*) ‖ p(y) p(y*)) ≈ ½ Σ_ab (Σ_t π_t (p_ta − p̄_a)(p*_tb − p̄*_b))² / (p̄_a p̄*_b)

    to second order in what the draws disagree about. An answer a moves the draws' weights by π ∘ (p_a / p̄_a − 1);
    with x_a = √p̄_a times that, and K = F Fᵀ of `aims`, the mean over targets is ½ r Σ_a |Fᵀ x_a|², summed exactly.

    Taken from that is what T draws show by chance of subjects that have nothing in common, |x_a|² tr K / (T − 1):
    the mean over all ways to pair the draws of the two. What an answer tells about *other* questions is left out:
    draws of Laplace's heads are independent between questions, and chance would be most of what is found. (In an
    ensemble of networks they are not, and the value is too small.)

    ``votes`` volunteers count as votes·r / (1 + (votes − 1) r ρ) independent ones, ρ the correlation of two
    volunteers' answers (the design effect, Kish 1965). That is what the mean of their answers tells; where opinions
    scatter widely, the counts tell somewhat more. Costs per subject, with C cells: T × C × directions multiply-adds.
    Raises GreenpeaError where the targets have other questions or draws.
    """
    _check(posterior, aims)
    walk = _plan(posterior)
    value, answers = np.zeros(len(posterior)), np.zeros(len(posterior))
    for rows in _blocks(len(posterior), posterior.draws * (walk.cells + walk.urns), WIDE):
        for seen in _seen(walk, posterior, rows):
            if seen.first:
                answers[rows] += votes * seen.reach
            if seen.question in aims.questions:
                value[rows] += seen.volunteers(votes) * _told(seen, aims.factors[seen.urn])
    return Prediction(value, answers)


def _check(posterior: Posterior, aims: Aims) -> None:
    if posterior.tree.structure != aims.tree.structure:
        raise GreenpeaError(
            f"the targets are on the tree {aims.tree.name!r}, the posterior is on {posterior.tree.name!r}: "
            f"take both from one model"
        )
    if len(aims.factors[0]) != posterior.draws:
        raise GreenpeaError(
            f"the posterior has {posterior.draws} draws, the targets {len(aims.factors[0])}: give both the same draws"
        )


class _Seen(NamedTuple):
    """An urn, and what the draws say of its cells for some subjects."""

    question: str
    urn: int
    first: bool  # of its question's urns
    fractions: Float[np.ndarray, "cell subject draw"]
    mean: Float[np.ndarray, "cell subject"]
    weights: Float[np.ndarray, "subject draw"]
    reach: Float[np.ndarray, " subject"]
    within: Float[np.ndarray, " subject"]  # correlation of two volunteers' answers under one draw, on average

    def volunteers(self, votes: int) -> Float[np.ndarray, " subject"]:
        """Return how many volunteers who are asked independently would tell as much as ``votes`` do."""
        if votes == 1:
            return self.reach
        # ρ = Σ_a Var f_a / p̄_a ÷ (A − 1) between draws, and of what is left to each draw its own.
        variance = (np.square(self.fractions - self.mean[..., None]) * self.weights).sum(axis=-1)
        between = (variance / np.maximum(self.mean, TINY)).sum(axis=0) / max(len(self.mean) - 1, 1)
        return votes * self.reach / (1 + (votes - 1) * self.reach * (between + (1 - between) * self.within))


def _seen(walk: _Walk, posterior: Posterior, rows: slice) -> Iterator[_Seen]:
    """Yield every urn on the walk, for some subjects."""
    contents = _contents(walk, posterior, rows)
    weights = np.full(contents.shape[1:], 1 / posterior.draws, np.float32)
    if posterior.weights is not None:
        weights[:] = posterior.weights[:, rows].T
    here = {walk.stops[0].question: np.ones(contents.shape[1:], np.float32)}
    for stop in walk.stops:
        came = here[stop.question]
        reach = np.einsum("sd,sd->s", came, weights)
        for urn, cells in _urns(stop):
            total = contents[walk.cells + urn]
            fractions = contents[cells]
            fractions /= total
            within = (weights / (total + 1)).sum(axis=-1) if stop.grows else np.zeros_like(reach)
            mean = np.einsum("csd,sd->cs", fractions, weights)
            yield _Seen(stop.question, urn, urn == stop.urns.start, fractions, mean, weights, reach, within)
        # Where everybody goes on together, what they said makes no difference.
        for way, share in zip(stop.nexts, [1.0] if stop.multiple else contents[stop.cells], strict=True):
            if way is not None:
                here[way] = here[way] + came * share if way in here else came * share


def _told(seen: _Seen, factor: Float[np.ndarray, "draw direction"]) -> Float[np.ndarray, " subject"]:
    """Return ½ Σ_a (|Fᵀ x_a|² − |x_a|² tr K / (T − 1)) for one volunteer who is asked."""
    x = seen.fractions - seen.mean[..., None]
    x *= seen.weights / np.sqrt(np.maximum(seen.mean, TINY))[..., None]
    flat = x.reshape(-1, len(factor))
    by_chance = _squares(flat) * (np.square(factor).sum() / max(len(factor) - 1, 1))
    return 0.5 * (_squares(flat @ factor) - by_chance).reshape(seen.mean.shape).sum(axis=0)


def _squares(values: Float[np.ndarray, "row column"]) -> Float[np.ndarray, " row"]:
    return np.einsum("ij,ij->i", values, values)


def _factor(kernel: Float[np.ndarray, "draw draw"], kept: float) -> Float[np.ndarray, "draw direction"]:
    """Return F of the fewest columns with tr F Fᵀ at least ``kept`` of tr K."""
    values, vectors = np.linalg.eigh(kernel.astype(np.float64))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    size = 1 + int(np.searchsorted(np.cumsum(values), kept * values.sum()))
    return np.asarray(vectors[:, :size] * np.sqrt(values[:size]), np.float32)


# ---- walks ---------------------------------------------------------------------------------------------
#
# Every family is an urn. A volunteer draws answer a with probability α_a / α₀; where the urn grows, one more of
# its kind is put in. Pólya's urn makes counts Dirichlet–multinomial, an urn that does not grow multinomial.
# A ``multiple`` question has one urn of two cells, given and not given, for each of its answers.
#
# Arrays have a row for every cell of every urn, then one for every urn's total.


class _Stop(NamedTuple):
    """A question on the walk: the rows of its cells, its urns, and where its answers lead."""

    question: str
    multiple: bool
    grows: bool
    cells: slice
    urns: range
    nexts: tuple[str | None, ...]  # of each answer; of a ``multiple`` question, one for all


class _Walk(NamedTuple):
    """The questions that a walk passes, in topological order, and what is told by each row."""

    stops: tuple[_Stop, ...]
    cells: int
    urns: int
    told: np.ndarray  # [row] whether anything is learned from it
    grows: np.ndarray  # [row] 1 or 0
    sign: np.ndarray  # [row] +1 of a cell, −1 of a total


def _plan(posterior: Posterior, questions: Sequence[str] | None = None) -> _Walk:
    """Return the walk to some questions, by default all: those, and what comes before them."""
    counted = _named(posterior.tree, questions)
    stops = tuple(_stops(posterior, _passed(posterior.tree, counted)))
    cells, urns = stops[-1].cells.stop, stops[-1].urns.stop
    told, grows = np.zeros(cells + urns, bool), np.zeros(cells + urns, np.float32)
    for stop in stops:
        totals = slice(cells + stop.urns.start, cells + stop.urns.stop)
        told[stop.cells] = stop.question in counted
        # What an urn holds in all says nothing when it does not grow: fractions sum to 1.
        told[totals] = stop.question in counted and stop.grows
        grows[stop.cells] = grows[totals] = stop.grows
    return _Walk(stops, cells, urns, told, grows, sign=np.repeat(np.array([1, -1], np.float32), [cells, urns]))


def _named(tree: DecisionTree, questions: Sequence[str] | None) -> tuple[str, ...]:
    """Return the questions asked about, by default all. Raises GreenpeaError where there are none, or unknown."""
    names = tuple(tree.slugs) if questions is None else tuple(tree[slug].slug for slug in questions)
    if not names:
        raise GreenpeaError("no question to learn from: name at least one, or leave `questions` out for all of them")
    return names


def _passed(tree: DecisionTree, counted: Sequence[str]) -> set[str]:
    """Return the questions ``counted`` and all that can come before them."""
    passed = set(counted)
    for slug in reversed(tree.topological_order):
        if passed & tree[slug].followers:
            passed.add(slug)
    return passed


def _stops(posterior: Posterior, passed: set[str]) -> Iterator[_Stop]:
    """Yield the questions ``passed`` in topological order, their cells and urns numbered one after another."""
    cells = urns = 0
    for slug in (slug for slug in posterior.tree.topological_order if slug in passed):
        question = posterior.tree[slug]
        multiple, answers = question.kind == "multiple", len(question.answers)
        ways = [question.next] if multiple else [answer.next for answer in question.answers]
        stop = _Stop(
            question=slug,
            multiple=multiple,
            grows=posterior.families[slug] in ("dirichlet-multinomial", "beta-binomial"),
            cells=slice(cells, cells + answers * (1 + multiple)),
            urns=range(urns, urns + (answers if multiple else 1)),
            nexts=tuple(way if way in passed else None for way in ways),
        )
        yield stop
        cells, urns = stop.cells.stop, stop.urns.stop


def _contents(walk: _Walk, posterior: Posterior, subjects: slice) -> Float[np.ndarray, "row subject draw"]:
    """Return what is in the urns before anybody draws."""
    rows = np.empty((walk.cells + walk.urns, len(posterior.subject_ids[subjects]), posterior.draws), np.float32)
    for stop in walk.stops:
        parameters = posterior.parameters[stop.question][:, subjects]
        if stop.multiple and not stop.grows:
            parameters = np.stack([parameters, 1 - parameters], axis=-1)
        rows[stop.cells] = parameters.reshape(*parameters.shape[:2], -1).T
        for urn, cells in _urns(stop):
            rows[cells].sum(axis=0, out=rows[walk.cells + urn])
    return rows


def _urns(stop: _Stop) -> Iterator[tuple[int, slice]]:
    """Yield the number of each of a question's urns, and its cells."""
    size = (stop.cells.stop - stop.cells.start) // len(stop.urns)
    for urn, first in zip(stop.urns, range(stop.cells.start, stop.cells.stop, size), strict=True):
        yield urn, slice(first, first + size)


def _simulate(
    walk: _Walk,
    contents: Float[np.ndarray, "row subject simulation"],
    votes: int,
    uniform: Float[np.ndarray, "subject vote urn simulation"],
) -> Integer[np.ndarray, "row subject simulation"]:
    """Return the counts of ``votes`` volunteers at each cell, and how many came to each urn; ``contents`` grow."""
    counts = np.zeros(contents.shape, np.min_scalar_type(votes))
    for vote in range(votes):
        here = {walk.stops[0].question: np.ones(contents.shape[1:], bool)}
        for stop in walk.stops:
            asked = here[stop.question]
            given: list[np.ndarray] = []
            for urn, cells in _urns(stop):
                total = walk.cells + urn
                drawn = _draw(contents[cells], contents[total] * uniform[:, vote, urn], asked)
                for row, some in zip((*range(cells.start, cells.stop), total), (*drawn, asked), strict=True):
                    counts[row] += some
                    if stop.grows:
                        contents[row] += some
                given += drawn
            for way, some in zip(stop.nexts, [asked] if stop.multiple else given, strict=True):
                if way is not None:
                    here[way] = here[way] | some if way in here else some
    return counts


def _draw(
    contents: Float[np.ndarray, "cell subject simulation"],
    threshold: Float[np.ndarray, "subject simulation"],
    asked: np.ndarray,
) -> list[np.ndarray]:
    """Return, per cell, in which simulations it is drawn: the one whose cumulative content passes ``threshold``."""
    given = []
    for content in contents[:-1]:
        threshold -= content
        taken = asked & (threshold < 0)
        asked = asked ^ taken
        given.append(taken)
    return [*given, asked]


# ---- what walks tell -----------------------------------------------------------------------------------


def _terms(
    walk: _Walk, posterior: Posterior, rows: slice, votes: int, size: int, rng: np.random.Generator
) -> Float[np.ndarray, "subject simulation"]:
    """Return KL(w(k) ‖ π) of ``size`` simulated k for each of some subjects."""
    contents = _contents(walk, posterior, rows)
    _, subjects, draws = contents.shape
    weights = np.full((subjects, draws), 1 / draws) if posterior.weights is None else posterior.weights[:, rows].T
    # A subject's numbers stand together, so that blocks of any size give it the same ones.
    uniform = rng.random((subjects, 1 + votes * walk.urns * size), np.float32)
    if posterior.weights is None and size == draws:
        filled = contents.copy()
    else:
        filled = np.take_along_axis(contents, _systematic(weights, uniform[:, 0], size)[None], axis=2)
    counts = _simulate(walk, filled, votes, uniform[:, 1:].reshape(subjects, votes, walk.urns, size))
    terms = np.empty((subjects, size))
    for some in _blocks(subjects, max(size, draws) * max(votes, 1) * len(contents), TILE):
        log_p = _log_likelihood(walk, contents[:, some], counts[:, some], votes)
        terms[some] = _divergence(log_p, weights[some])
    return terms


def _blocks(subjects: int, numbers: int, most: int) -> Iterator[slice]:
    """Yield slices of the subjects, each needing ``numbers`` numbers, such that none needs more than ``most``."""
    step = max(1, min(CHUNK, most // max(numbers, 1)))
    for start in range(0, subjects, step):
        yield slice(start, min(start + step, subjects))


def _systematic(
    weights: Float[np.ndarray, "subject draw"], uniform: Float[np.ndarray, " subject"], size: int
) -> Int[np.ndarray, "subject simulation"]:
    """Pick ``size`` draws by their weights, as evenly as can be: each ⌊size·π⌋ or ⌈size·π⌉ times."""
    ladder = np.cumsum(weights, axis=1, dtype=np.float64)
    at = (np.arange(size) + uniform[:, None].astype(np.float64)) / size * ladder[:, -1:]
    return (at[:, :, None] >= ladder[:, None, :-1]).sum(axis=-1)


def _log_likelihood(
    walk: _Walk,
    contents: Float[np.ndarray, "row subject draw"],
    counts: Integer[np.ndarray, "row subject simulation"],
    votes: int,
) -> Float[np.ndarray, "subject simulation draw"]:
    """Return ln p(k simulated | t) for all pairs, up to terms free of t."""
    # ln p = Σ_a ln (α_a)_{k_a} − ln (α₀)_n, where ln (α)_k = Σ_{j<k} ln(α + j); k ln α where nothing grows.
    # Steps that no volunteer took need no logarithm: most cells have few votes.
    most = np.where(walk.told, counts.max(axis=(1, 2), initial=0), 0)
    row, j = np.nonzero(np.arange(votes) < most[:, None])
    taken = (counts[row] > j.astype(counts.dtype)[:, None, None]).astype(np.float32)
    steps = contents[row]
    steps += (walk.grows[row] * j.astype(np.float32))[:, None, None]
    np.log(np.maximum(steps, TINY, out=steps), out=steps)
    steps *= walk.sign[row][:, None, None]
    return np.matmul(taken.transpose(1, 2, 0), steps.transpose(1, 0, 2))


def _divergence(
    log_p: Float[np.ndarray, "subject simulation draw"], weights: Float[np.ndarray, "subject draw"]
) -> Float[np.ndarray, "subject simulation"]:
    """Return KL(w ‖ π) for w_t ∝ π_t p(k | t)."""
    left_out = weights < NO_WEIGHT
    if left_out.any():
        log_p = np.where(left_out[:, None], np.float32(-1e30), log_p)
    log_p -= log_p.max(axis=2, keepdims=True)
    p = np.exp(log_p)
    prior = weights[:, :, None].astype(np.float32)
    # KL(w ‖ π) = Σ_t w_t ln p(k | t) − ln Z, Z = Σ_t π_t p(k | t)
    z = (p @ prior)[..., 0]
    return np.maximum(((p * log_p) @ prior)[..., 0] / z - np.log(z), 0.0)
