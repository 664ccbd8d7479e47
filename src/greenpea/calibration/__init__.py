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
from greenpea.calibration.labels import (
    CalibrationError,
    LabelReliability,
    brier,
    calibration_error,
    label_reliability,
    log_score,
    ranked_probability,
    ranked_probability_of_votes,
)
from greenpea.calibration.maps import MAPS, Map, fit

__all__ = [
    "LEVELS",
    "MAPS",
    "CalibrationError",
    "Evaluation",
    "Interval",
    "LabelReliability",
    "Map",
    "Recalibration",
    "Reliability",
    "Score",
    "TooFewVotes",
    "accuracy",
    "brier",
    "by_decile",
    "calibration_error",
    "constant",
    "evaluate",
    "fit",
    "fit_dirichlet_multinomial",
    "highest_density_ranks",
    "label_reliability",
    "log_floor",
    "log_score",
    "randomised_pit",
    "ranked_probability",
    "ranked_probability_of_votes",
    "ratio_interval",
    "recalibrate",
    "reliability",
]
