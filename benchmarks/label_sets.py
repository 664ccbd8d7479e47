"""What `label_efficiency.py` learns from: images, the votes that looks would reveal, and an encoder that saw neither.

(a) simulated galaxies on the GZ DECaLS tree; (b) EFIGI's real images, volunteers *simulated* from expert attributes;
(c) CIFAR-10H, real votes of real people. Encoders and embeddings are made once and kept in a folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit

from common import data_folder, say
from greenpea import images, simulate
from greenpea.calibration import Recalibration
from greenpea.files import replacing
from greenpea.learning import checkpoint
from greenpea.learning.kept import SHIPPED
from greenpea.learning.model import Model, learn
from greenpea.learning.prediction import embed
from greenpea.learning.settings import Learning
from greenpea.outputs import Geometry, Layout
from greenpea.subjects import SubjectSet
from greenpea.tree import DecisionTree, slugify
from greenpea.votes import Votes
from real_galaxies import CLASSES
from real_votes import tree as cifar_tree

SIMULATED = 7500  # galaxies
CROWD = 400  # simulated volunteers
LOOKS, LOOK = 4, 5  # times a subject may be asked about; simulated volunteers each time, as a round's ranks ask
JUDGES = 40  # simulated volunteers whose votes judge a held-out subject


Crowd = tuple[tuple[Votes, ...], Votes]  # one look after another; the votes that judge


@dataclass(frozen=True, eq=False)
class LabelSet:
    """Subjects with their images, and what people would say: `crowd(seed)` → votes of every look, votes that judge.

    ``held_out`` is how many subjects are kept for judging, ``images`` a way to load them [subject, channel, y, x],
    since a run with a frozen encoder needs only ``embeddings``.
    """

    name: str
    tree: DecisionTree
    embeddings: torch.Tensor
    held_out: int
    images: Callable[[], np.ndarray]
    crowd: Callable[[int], Crowd]
    encoder: Callable[[], Model]

    def __len__(self) -> int:
        return len(self.embeddings)


# ---- encoders, each trained on other data ------------------------------------------------------------


def _kept(folder: Path, train: Callable[[], Model]) -> Model:
    if not folder.exists():
        checkpoint.save(train(), folder)
    return checkpoint.load(folder)


def _learned(pictures: np.ndarray, votes: Votes, size: int, settings: Learning, start: Model | None = None) -> Model:
    validation = np.random.default_rng(0).random(len(votes)) < 0.1
    return learn(pictures, votes, validation, images.Preparation(size=size), settings, start, report=say())


def sky_encoder(work: Path) -> Model:
    """The encoder in the package, which was trained on simulated galaxies of another seed."""
    kept = checkpoint.load_encoder(SHIPPED)
    tree = DecisionTree.load("gz-decals-5")
    return Model(  # only to start from: it has no head
        encoder=kept.encoder,
        layout=Layout(tree),
        preparation=kept.preparation,
        settings=Learning(encoder=kept.name, width=kept.width, orientation="any"),
        channels=kept.channels,
        state=None,
        geometry=Geometry(np.zeros(0), np.zeros((0, 0)), 1.0),
        recalibration=Recalibration.identity(tree),
        learned_from=kept.learned_from,
    )


def galaxy_encoder(work: Path) -> Model:
    """The same, trained further on Galaxy Zoo 1's published classes of real images."""

    def train() -> Model:
        subjects = SubjectSet.open(data_folder("gz1", "classes.csv"))
        pictures = images.load(subjects, images.Preparation()).images
        settings = Learning(epochs=10, orientation="any", mirror=False, learning_rate=1e-3)
        labels = [slugify(label.replace("_", " ")) for label in _column(subjects, "class")]
        votes = single_labels("class", CLASSES, subjects, labels)
        return _learned(pictures, votes, 64, settings, start=sky_encoder(work))

    return _kept(work / "encoder-galaxies", train)


def object_encoder(work: Path) -> Model:
    """An encoder trained on the 20,000 images of CIFAR-10 with one label each, none of them in CIFAR-10H."""

    def train() -> Model:
        subjects = SubjectSet.open(data_folder("cifar10h", "train.parquet"))
        question = cifar_tree().questions[0]
        votes = single_labels(question.slug, question.answer_slugs, subjects, _column(subjects, "label"))
        pictures = images.load(subjects, images.Preparation(size=32)).images
        return _learned(pictures, votes, 32, Learning(epochs=12, orientation="upright", likelihood="multinomial"))

    return _kept(work / "encoder-objects", train)


def single_labels(slug: str, answers: tuple[str, ...], subjects: SubjectSet, labels: list[str]) -> Votes:
    """Return published classes as one vote each on one question."""
    question = {"slug": slug, "answers": [{"slug": answer} for answer in answers]}
    tree = DecisionTree.model_validate({"name": slug, "questions": [question]})
    votes = Votes.empty(tree, list(subjects.subject_ids))
    votes.counts[slug][np.arange(len(labels)), [answers.index(label) for label in labels]] = 1
    votes.reached[slug][:] = 1
    return votes


# ---- the sets ----------------------------------------------------------------------------------------


def simulated(work: Path) -> LabelSet:
    """Simulated galaxies and three questions of GZ DECaLS; the last, on the bulges of edge-on disks, is rare."""
    tree = edge_on_tree()

    def pictures() -> np.ndarray:
        return _channels_first(simulate.galaxies(SIMULATED, seed=902).images)

    encoder = partial(sky_encoder, work)
    embeddings = _embedded(work / "embeddings-simulated.npy", encoder, pictures)
    truth = _truth(work / "truth-simulated.npz")
    return LabelSet("simulated", tree, embeddings, 1500, pictures, _drawn_crowd(tree, truth), encoder)


def edge_on_tree() -> DecisionTree:
    """What a campaign on edge-on disks asks: GZ DECaLS without the other questions."""
    asked = ("smooth-or-featured", "disk-edge-on", "edge-on-bulge")
    whole = DecisionTree.load("gz-decals-5")

    def kept(slug: str | None) -> str | None:
        return slug if slug in asked else None

    questions = [
        {
            "slug": slug,
            "next": kept(whole[slug].next),
            "answers": [{"slug": answer.slug, "next": kept(answer.next)} for answer in whole[slug].answers],
        }
        for slug in asked
    ]
    return DecisionTree.model_validate({"name": "edge-on-disks", "questions": questions})


def efigi(work: Path) -> LabelSet:
    """EFIGI's images; is it smooth or featured, and if featured, is there a bar?

    A volunteer says "featured" with a probability that rises with the Hubble stage T and is a half at S0/a, and "bar"
    with one that rises with the bar's length and is full where the bar is as long as half of the longest. Both are
    kept between 0.05 and 0.95, since nobody is always right.
    """
    whole = SubjectSet.open(data_folder("efigi", "attributes.csv"))
    subjects = whole.select(np.flatnonzero(np.array(whole.metadata["Bar_Length"].to_numpy()) >= 0))  # −1: unknown

    def pictures() -> np.ndarray:
        return images.load(subjects, images.Preparation()).images

    encoder = partial(galaxy_encoder, work)
    embeddings = _embedded(work / "embeddings-efigi.npy", encoder, pictures)
    stage, bar = (subjects.metadata[name].to_numpy() for name in ("T", "Bar_Length"))
    shares = {"featured": expit(stage + 0.5), "bar": np.minimum(2 * bar, 1.0)}
    truth = {slug: 0.05 + 0.9 * np.stack([share, 1 - share], axis=1) for slug, share in shares.items()}
    tree = efigi_tree()
    return LabelSet("efigi", tree, embeddings, 900, pictures, _attributes_crowd(tree, truth), encoder)


def efigi_tree() -> DecisionTree:
    """Two questions, the second asked of those who saw features."""
    return DecisionTree.model_validate(
        {
            "name": "efigi",
            "questions": [
                {"slug": "featured", "answers": [{"slug": "featured", "next": "bar"}, {"slug": "smooth"}]},
                {"slug": "bar", "answers": [{"slug": "bar"}, {"slug": "no-bar"}]},
            ],
        }
    )


def cifar10h(work: Path) -> LabelSet:
    """CIFAR-10H: all the votes that an image got are revealed when it is asked about."""
    subjects = SubjectSet.open(data_folder("cifar10h", "test.parquet"))
    tree = cifar_tree()
    votes = Votes.from_table(subjects.metadata, tree, subjects.subject_ids)

    def pictures() -> np.ndarray:
        return images.load(subjects, images.Preparation(size=32)).images

    encoder = partial(object_encoder, work)
    embeddings = _embedded(work / "embeddings-cifar10h.npy", encoder, pictures)
    return LabelSet("cifar10h", tree, embeddings, 2000, pictures, lambda seed: ((votes,), votes), encoder)


SETS = {"simulated": simulated, "efigi": efigi, "cifar10h": cifar10h}


def _embedded(path: Path, encoder: Callable[[], Model], pictures: Callable[[], np.ndarray]) -> torch.Tensor:
    if not path.exists():
        values = embed(encoder().encoder, pictures(), "32-true", "cpu").numpy()
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, values)
    return torch.from_numpy(np.load(path))


def _truth(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        truth = simulate.galaxies(SIMULATED, seed=902).truth
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **truth)
    return dict(np.load(path))


def _drawn_crowd(tree: DecisionTree, truth: dict[str, np.ndarray]) -> Callable[[int], Crowd]:
    def draw(seed: int) -> Crowd:
        people = simulate.volunteers(CROWD, seed)
        sizes = [LOOK] * LOOKS + [JUDGES]
        *looks, judges = (simulate.classify(truth, tree, size, people, 100 * seed + n) for n, size in enumerate(sizes))
        return tuple(looks), judges

    return draw


def _attributes_crowd(tree: DecisionTree, truth: dict[str, np.ndarray]) -> Callable[[int], Crowd]:
    """Volunteers who are all alike and answer independently with the attributes' probabilities."""

    def votes(count: int, rng: np.random.Generator) -> Votes:
        some = Votes.empty(tree, [str(row) for row in range(len(truth["bar"]))])
        featured = rng.binomial(count, truth["featured"][:, 0])
        bar = rng.binomial(featured, truth["bar"][:, 0])
        some.counts["featured"][:] = np.stack([featured, count - featured], axis=1)
        some.counts["bar"][:] = np.stack([bar, featured - bar], axis=1)
        return replace(some, reached={"featured": np.full(len(some), count), "bar": featured})

    def draw(seed: int) -> Crowd:
        rng = np.random.default_rng(seed)
        return tuple(votes(LOOK, rng) for _ in range(LOOKS)), votes(JUDGES, rng)

    return draw


def _channels_first(pictures: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))


def _column(subjects: SubjectSet, name: str) -> list[str]:
    return [str(value) for value in subjects.metadata[name].to_pylist()]
