"""SWAP, the Space Warps Analysis Pipeline (Marshall et al. 2016): one Bayes update per reply, in order of time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from greenpea.errors import GreenpeaError, did_you_mean
from greenpea.volunteers.consensus import Consensus, above_chance
from greenpea.volunteers.replies import Replies

FURTHEST = 28.0  # log-odds go no further (within 10^-12 of certainty), so that later replies can move them
ACCEPTED, REJECTED = "accepted", "rejected"


@dataclass(frozen=True)
class Settings:
    """How the crowd is judged, with one of the two answers as "yes".

    ``prior`` is the expected prevalence of "yes". ``start`` is P("yes" | yes) and P("no" | no) of a volunteer of
    whom nothing is known, worth ``2 × smoothing`` replies each: with (0.5, 0.5) and 1 this is Laplace's rule.
    ``unsupervised`` judges volunteers by every subject, in proportion to its probability after their reply;
    otherwise by gold alone. A subject is retired once its probability is at least ``accept`` or at most ``reject``
    (None: never); gold never is.
    """

    prior: float = 0.5
    start: tuple[float, float] = (0.5, 0.5)
    smoothing: float = 1.0
    unsupervised: bool = False
    accept: float | None = None
    reject: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("prior", self.prior), ("start", self.start[0]), ("start", self.start[1])):
            if not 0 < value < 1:
                raise GreenpeaError(f"{name} {value} is not a probability between 0 and 1")
        if not self.smoothing > 0:
            raise GreenpeaError(f"smoothing {self.smoothing}: it must be above 0, or one reply makes an oracle")
        if (self.accept is not None and not self.prior < self.accept < 1) or (
            self.reject is not None and not 0 < self.reject < self.prior
        ):
            raise GreenpeaError(
                f"thresholds reject {self.reject} and accept {self.accept} must lie on either side of "
                f"the prior {self.prior}, between 0 and 1"
            )


def combine(
    replies: Replies,
    gold: Mapping[str, str],
    settings: Settings | None = None,
    yes: str | None = None,
    trajectories: bool = False,
) -> Consensus:
    """Return the probability of each of two answers after the last reply that counted.

    ``gold`` maps subjects to their known answer; ``yes`` is the answer looked for, by default the last. The
    volunteer's skill as it stood before the reply judges the subject, then the reply is held against the
    volunteer. Replies about a subject after its retirement move nothing. ``skills`` are the mean of P("yes" | yes)
    and P("no" | no), ``weights`` how far this is above chance, ``confusion`` both. ``trajectory``, if asked for,
    has the probability of ``yes`` after each reply. A gold subject has what the crowd alone would say.

    Raises GreenpeaError where there are not two answers, where gold names an unknown subject or answer, and where
    nothing could ever be learned. One pass, reply by reply, since each depends on all before: 10^6 in a second or two.
    """
    settings = settings or Settings()
    column = _column_of_yes(replies, yes)
    crowd = _Crowd(settings, len(replies.volunteer_ids))
    odds, reasons, trajectory = _run(replies, column, _truth(replies, gold, column, settings), crowd, settings)
    skill = crowd.skill()
    accuracy = skill.mean(axis=1)
    order = slice(None) if column else slice(None, None, -1)
    tables = np.stack([np.stack([skill[:, 1], 1 - skill[:, 1]], 1), np.stack([1 - skill[:, 0], skill[:, 0]], 1)], 1)
    return Consensus(
        replies.subject_ids,
        replies.volunteer_ids,
        replies.answers,
        probabilities=np.stack([_probability(-odds), _probability(odds)], axis=1)[:, order],
        weights=above_chance(accuracy, 2),
        skills=accuracy,
        iterations=1,
        converged=True,
        confusion=tables[:, order, order],
        prevalence=np.array([1 - settings.prior, settings.prior])[order],
        reasons=reasons,
        trajectory=_probability(trajectory) if trajectories else None,
    )


def _column_of_yes(replies: Replies, yes: str | None) -> int:
    if len(replies.answers) != 2:
        raise GreenpeaError(f"SWAP takes a question of two answers, not {len(replies.answers)}")
    if yes is not None and yes not in replies.answers:
        raise GreenpeaError(f"there is no answer {yes!r}{did_you_mean(yes, replies.answers)}")
    return 1 if yes is None else replies.answers.index(yes)


def _truth(replies: Replies, gold: Mapping[str, str], column: int, settings: Settings) -> Int[np.ndarray, " subject"]:
    """Return 1 for gold subjects that are "yes", 0 for those that are not, −1 for the others."""
    place = {subject: row for row, subject in enumerate(replies.subject_ids)}
    truth = np.full(len(place), -1)
    for subject, answer in gold.items():
        if subject not in place:
            raise GreenpeaError(f"gold subject {subject!r} is not among the replies{did_you_mean(subject, place)}")
        if answer not in replies.answers:
            raise GreenpeaError(
                f"gold subject {subject!r} has the answer {answer!r}: "
                f"give one of {', '.join(map(repr, replies.answers))}"
            )
        truth[place[subject]] = int(answer == replies.answers[column])
    if not (gold or (settings.unsupervised and sum(settings.start) > 1)):
        raise GreenpeaError(
            "without gold subjects nothing can be learned from volunteers who start no better than chance: "
            "give gold, or set unsupervised and a start above (0.5, 0.5)"
        )
    return truth


@dataclass
class _Crowd:
    """What is known of every volunteer so far: (expected) counts of subjects seen and got right, of either truth.

    Plain lists: reading and writing one element of an array costs ten times as much.
    """

    settings: Settings
    people: int
    seen: tuple[list[float], list[float]] = field(init=False)  # of "no" and of "yes"
    right: tuple[list[float], list[float]] = field(init=False)

    def __post_init__(self) -> None:
        worth, (yes, no) = 2 * self.settings.smoothing, self.settings.start
        self.seen = [worth] * self.people, [worth] * self.people
        self.right = [no * worth] * self.people, [yes * worth] * self.people

    def judge(self, volunteer: int, said: int) -> float:
        """Return ln P(said | yes) / P(said | no), the log of the Bayes factor of a reply."""
        yes = self.right[1][volunteer] / self.seen[1][volunteer]
        no = self.right[0][volunteer] / self.seen[0][volunteer]
        return math.log(yes / (1 - no)) if said else math.log((1 - yes) / no)

    def learn(self, volunteer: int, said: int, yes: float) -> None:
        """Hold a reply against the volunteer, about a subject that is "yes" with this probability."""
        self.seen[1][volunteer] += yes
        self.seen[0][volunteer] += 1 - yes
        self.right[said][volunteer] += yes if said else 1 - yes

    def skill(self) -> Float[np.ndarray, "volunteer 2"]:
        """Return P("yes" | yes) and P("no" | no) of every volunteer."""
        return np.stack([np.divide(self.right[1], self.seen[1]), np.divide(self.right[0], self.seen[0])], axis=1)


def _run(
    replies: Replies, column: int, truth: Int[np.ndarray, " subject"], crowd: _Crowd, settings: Settings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Go through the replies in order; return log-odds of "yes" and reasons by subject, log-odds after each reply."""
    accept = math.inf if settings.accept is None else _logit(settings.accept)
    reject = -math.inf if settings.reject is None else _logit(settings.reject)
    odds = [_logit(settings.prior)] * len(truth)
    reasons = [""] * len(truth)
    trajectory = [0.0] * len(replies)
    known = truth.tolist()
    said_yes = (replies.answer == column).astype(int)
    rows = zip(replies.subject.tolist(), replies.volunteer.tolist(), said_yes.tolist(), strict=True)
    for row, (subject, volunteer, said) in enumerate(rows):
        if not reasons[subject]:
            gold = known[subject]
            # P(yes | said) / P(no | said) = P(yes) / P(no) × P(said | yes) / P(said | no)
            after = min(max(odds[subject] + crowd.judge(volunteer, said), -FURTHEST), FURTHEST)
            odds[subject] = after
            if gold >= 0:
                crowd.learn(volunteer, said, gold)
            elif settings.unsupervised:
                crowd.learn(volunteer, said, 1 / (1 + math.exp(-after)))
            if gold < 0 and not reject < after < accept:
                reasons[subject] = ACCEPTED if after >= accept else REJECTED
        trajectory[row] = odds[subject]
    return np.array(odds, float), np.array(reasons, dtype=object), np.array(trajectory, float)


def _logit(probability: float) -> float:
    return math.log(probability) - math.log1p(-probability)


def _probability(odds: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-odds)))
