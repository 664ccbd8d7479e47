"""Cross-fitted heads: every subject is spoken of by a head that never saw its votes. Numpy only.

Subjects fall into folds by a hash of their id; the head of a fold has learned from all other folds. What it says of
a subject may therefore be combined with the subject's own votes, and judged by them (Chernozhukov+2018).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from greenpea import outputs
from greenpea.calibration import Recalibration
from greenpea.errors import GreenpeaError
from greenpea.files import replacing, sha256
from greenpea.outputs import Geometry, Layout
from greenpea.posterior import Posterior
from greenpea.tree import DecisionTree

FORMAT = "greenpea-heads/1"
HALVES = 2  # parts of the subjects, each with an encoder of its own, where a tuned pair made the embeddings
NUMBERS, FACTS = "heads.npz", "heads.json"


@dataclass(frozen=True, eq=False)
class Heads:
    """Draws of one head a fold. ``draws`` of them are for ordinary use; the rest are the reserve, for subjects whose
    votes leave few of the draws with weight.

    Draw t of every fold is made of the same noise, so that it is nearly the same head in all folds, and in the next
    round: what a draw says of two subjects hangs together whichever folds they are in.
    """

    layout: Layout
    weights: Float[np.ndarray, "fold draw row output"]  # float32, row: embedding + 1
    means: Float[np.ndarray, "fold row output"]  # the most probable heads: where the next fit begins
    draws: int
    salt: str
    recalibration: Recalibration
    geometry: Geometry
    encoder: str = ""  # the fingerprint of the one that made the embeddings
    other: Geometry | None = None  # of the odd folds, whose embeddings another encoder made; None: one made all
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folds(self) -> int:
        return len(self.weights)

    def fold_of(self, subject_ids: np.ndarray) -> Int[np.ndarray, " subject"]:
        """Return each subject's fold: a hash of its id and the salt, the same for ever."""
        return fold_of(subject_ids, self.folds, self.salt)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of every number and of what it means: the same heads, the same draws."""
        digest = hashlib.sha256(json.dumps(self._meaning(), sort_keys=True).encode())
        for values in self._arrays().values():
            digest.update(str(values.dtype).encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def posterior(
        self,
        embeddings: Float[np.ndarray, "subject embedding"],
        subject_ids: np.ndarray,
        draws: int | None = None,
    ) -> Posterior:
        """Return the posterior of subjects, each by the head of its own fold.

        ``draws`` above the ordinary number takes from the reserve. Raises GreenpeaError where there are not so many,
        and where the embeddings are of another length than those learned from.
        """
        draws = self.draws if draws is None else draws
        held, rows = self.weights.shape[1:3]
        if not 1 <= draws <= held:
            raise GreenpeaError(f"{draws} draws are wanted and these heads hold {held}: ask for 1 to {held}")
        if embeddings.shape[1] != rows - 1:
            raise GreenpeaError(
                f"the embeddings are {embeddings.shape[1]} numbers long, these heads take {rows - 1}: they belong to "
                f"another encoder"
            )
        fold = self.fold_of(subject_ids)
        found = np.empty((len(subject_ids), draws, self.layout.outputs), np.float32)
        for number in range(self.folds):
            some = np.flatnonzero(fold == number)
            found[some] = outputs.apply(self.weights[number, :draws], embeddings[some])
        distance = self.geometry.distance(embeddings)
        if self.other is not None:
            distance = np.where(fold % HALVES == 0, distance, self.other.distance(embeddings))
        return self.recalibration.apply(outputs.posterior(self.layout, found, np.asarray(subject_ids), distance))

    # ---- files -------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write `NUMBERS` and `FACTS` into a folder, whole or not at all, and return it."""
        folder = Path(folder)
        with replacing(folder) as temporary:
            temporary.mkdir()
            np.savez(temporary / NUMBERS, **self._arrays())  # type: ignore[arg-type]
            known = {
                "format": FORMAT,
                "fingerprint": self.fingerprint,
                **self._meaning(),
                "facts": dict(self.facts),
                "sha256": sha256(temporary / NUMBERS),
            }
            (temporary / FACTS).write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Heads:
        """Read what `save` wrote. Raises GreenpeaError where a file is missing, cut short or altered."""
        folder = Path(folder)
        for name in (NUMBERS, FACTS):
            if not (folder / name).is_file():
                raise GreenpeaError(f"{folder} holds no heads: it has no {name}. Run a round to fit them")
        try:
            known = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            if known["format"] != FORMAT:
                raise GreenpeaError(
                    f"{folder / FACTS} has the format {known['format']!r}; this Greenpea reads {FORMAT!r}"
                )
            if sha256(folder / NUMBERS) != known["sha256"]:
                raise _broken(folder / NUMBERS, "its bytes are not those that were saved")
            with np.load(folder / NUMBERS, allow_pickle=False) as arrays:
                return cls._restored(known, dict(arrays))
        except GreenpeaError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _broken(folder / FACTS, f"a part is missing or does not fit: {error}") from error

    @classmethod
    def _restored(cls, known: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Heads:
        tree = DecisionTree.from_json(json.dumps(known["tree"]), FACTS)
        return cls(
            layout=Layout(tree, known["likelihood"]),
            weights=arrays["weights"],
            means=arrays["means"],
            draws=known["draws"],
            salt=known["salt"],
            recalibration=Recalibration(**known["recalibration"]),
            geometry=Geometry(arrays["centre"], arrays["factor"], known["unit"]),
            encoder=known["encoder"],
            other=Geometry(arrays["centre_1"], arrays["factor_1"], known["unit_1"]) if "unit_1" in known else None,
            facts=known["facts"],
        )

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {
            "weights": self.weights,
            "means": self.means,
            "centre": self.geometry.mean,
            "factor": self.geometry.factor,
        }
        return arrays | ({"centre_1": self.other.mean, "factor_1": self.other.factor} if self.other else {})

    def _meaning(self) -> dict[str, Any]:
        meaning = {
            "tree": json.loads(self.layout.tree.to_json()),
            "likelihood": self.layout.likelihood,
            "draws": self.draws,
            "salt": self.salt,
            "encoder": self.encoder,
            "unit": self.geometry.unit,
            "recalibration": {
                "sharpness": dict(self.recalibration.sharpness),
                "shift": dict(self.recalibration.shift),
            },
        }
        return meaning | ({"unit_1": self.other.unit} if self.other else {})


def fold_of(subject_ids: np.ndarray, folds: int, salt: str = "") -> Int[np.ndarray, " subject"]:
    """Return a fold, 0 to ``folds`` − 1, per subject: a hash of its id and the salt."""
    prefix = hashlib.sha256(f"fold:{salt}:".encode())

    def one(subject: object) -> int:
        digest = prefix.copy()
        digest.update(str(subject).encode())
        return int.from_bytes(digest.digest()[:8], "big") % folds

    return np.fromiter((one(subject) for subject in subject_ids), np.int64, len(subject_ids))


def half_of(subject_ids: np.ndarray, salt: str = "") -> Int[np.ndarray, " subject"]:
    """Return a half, 0 or 1, per subject: its fold's parity, however many folds there are, if their number is even."""
    return fold_of(subject_ids, HALVES, salt)


def _broken(path: Path, why: str) -> GreenpeaError:
    return GreenpeaError(f"{path} is damaged: {why}. Roll back to another round, or run one anew")
