"""Is the posterior right? Proper scores, coverage, PIT, reliability; and maps that recalibrate it.

`counts` judges posteriors of votes, `labels` probabilities of classes; `maps` corrects the latter. Everything is judged
on what the network never saw, and no map is ever fitted on what it is judged by.
"""

from greenpea.calibration.counts import (
    LEVELS,
    Evaluation,
    Interval,
    Recalibration,
    Reliability,
    Score,
    TooFewVotes,
    accuracy,
    by_decile,
    constant,
    evaluate,
    fit_dirichlet_multinomial,
    highest_density_ranks,
    log_floor,
    randomised_pit,
    ratio_interval,
    recalibrate,
    reliability,
)

__all__ = [
    "LEVELS",
    "Evaluation",
    "Interval",
    "Recalibration",
    "Reliability",
    "Score",
    "TooFewVotes",
    "accuracy",
    "by_decile",
    "constant",
    "evaluate",
    "fit_dirichlet_multinomial",
    "highest_density_ranks",
    "log_floor",
    "randomised_pit",
    "ratio_interval",
    "recalibrate",
    "reliability",
]
