"""Learning from any arrays: spectra, images, cubes or plain numbers → labels or measurements, with their doubt.

::

    model = learn_labels(arrays, labels)                                  # arrays [subject, channel, …]
    model = learn_measurements(arrays, values, ["mass"], ["dex(solMass)"])
    posterior = model.predict(arrays)

For votes on a decision tree there is `greenpea.learning.model.learn`.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from greenpea import outputs as outputs_
from greenpea.calibration import Recalibration, recalibrate
from greenpea.errors import GreenpeaError
from greenpea.labels import LabelLayout, Noise
from greenpea.learning import encoders, training, uncertainty
from greenpea.learning.batches import FORMATS, ImageBatches, PlainBatches, to_unit
from greenpea.learning.families import LabelLoss, MeasurementLoss, as_targets, curvatures
from greenpea.learning.model import Report, generator, silent
from greenpea.learning.orientation import probe
from greenpea.learning.prediction import MICRO_BATCH, embed, in_blocks
from greenpea.learning.settings import Augmentation, Learning
from greenpea.learning.uncertainty import laplace, layers, variational
from greenpea.learning.uncertainty.encoder_dropout import Dropped
from greenpea.measurements import MeasurementLayout, MeasurementPosterior, Widening, widen
from greenpea.outputs import Geometry
from greenpea.posterior import Posterior

METHODS = ("laplace", "dropout", "variational-head", "variational", "encoder-dropout")
FEWEST = 10, 5  # subjects to learn from, and to validate on
VALIDATION = 0.15  # share of the subjects, where the caller does not say which


class Silencing(nn.Dropout):
    """Dropout whose draw is a mask of the features, the same for every subject; in between, no dropout at all."""

    def __init__(self, rate: float, size: int) -> None:
        super().__init__(rate)
        self.register_buffer("mask", torch.ones(size), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) if self.training else features * self.mask

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return which features are kept, raised so that the mean stays."""
        return (torch.rand(len(self.mask), generator=generator) >= self.p) / (1 - self.p)


def make_head(embedding: int, hidden: Sequence[int], start: Tensor, rates: Sequence[float]) -> nn.Sequential:
    """Return a head: dropout, linear and rectified layers of ``hidden`` units, then dropout and the outputs.

    ``rates`` are those of dropout before each layer, the outputs included. The last layer begins as ``start`` for
    everybody: every step from there is something learned.
    """
    parts: list[nn.Module] = []
    before = embedding
    for rate, size in zip(rates, hidden, strict=False):
        parts += [Silencing(rate, before), nn.Linear(before, size), nn.BatchNorm1d(size), nn.ReLU()]
        before = size
    last = nn.Linear(before, len(start))
    nn.init.zeros_(last.weight)
    last.bias.data.copy_(start)
    return nn.Sequential(*parts, Silencing(rates[-1], before), last)


def dropout_rates(encoder: nn.Module, hidden: Sequence[int], settings: Learning) -> list[float]:
    """Return the rates for `make_head`; plain numbers, each of which may be all there is, are not silenced."""
    rates = [settings.dropout] * (len(hidden) + 1)
    if hidden and isinstance(encoder, Plain):
        rates[0] = 0.0
    return rates


def prepared_encoder(encoder: nn.Module, settings: Learning) -> nn.Module:
    """Return an encoder that doubts as the settings say."""
    prepared = uncertainty.method(settings.uncertainty).prepare(encoder, settings)
    prepared.embedding_size = encoder.embedding_size
    return prepared


def prepared_head(head: nn.Sequential, settings: Learning) -> nn.Sequential:
    """Return a head that doubts as the settings say."""
    return uncertainty.method(settings.uncertainty).prepare_head(head, settings)


class Plain(nn.Module):
    """No encoder: the numbers themselves, at zero mean and unit variance."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embedding_size = size
        self.standard = nn.BatchNorm1d(size, affine=False)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.standard(numbers)


@dataclass(frozen=True, eq=False)
class ArrayModel:
    """A trained model of labels or measurements. ``state`` is the Laplace approximation of the head's last layer."""

    encoder: nn.Module
    head: nn.Sequential
    layout: LabelLayout | MeasurementLayout
    settings: Learning
    geometry: Geometry
    state: laplace.State | None = None
    recalibration: Recalibration | Widening | None = None
    history: training.History = field(default_factory=training.History)

    def tensors(self) -> dict[str, Tensor]:
        """Return every number of the model by name, as a checkpoint keeps them."""
        kept = {f"encoder.{name}": value for name, value in self.encoder.state_dict().items()}
        kept |= {f"head.{name}": value for name, value in self.head.state_dict().items()}
        if self.state is not None:
            kept |= {f"state.{name}": value for name, value in laplace.tensors(self.state).items()}
        kept |= {f"geometry.{name}": torch.from_numpy(getattr(self.geometry, name)) for name in ("mean", "factor")}
        return {name: value.detach().cpu().contiguous() for name, value in kept.items()}

    def fingerprint(self) -> str:
        """Return the SHA-256 of all numbers: one model, one set of draws."""
        digest = hashlib.sha256()
        for name, value in sorted(self.tensors().items()):
            digest.update(name.encode() + value.reshape(-1).numpy().tobytes())
        return digest.hexdigest()

    def predict(
        self,
        arrays: np.ndarray,
        subject_ids: Sequence[str] | np.ndarray | None = None,
        draws: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """Return the posterior of arrays [subject, channel, …]: one pass of the encoder, or one a draw if it doubts.

        A `Posterior` on one question for labels, a `MeasurementPosterior` for measurements. Draw t is a function of
        (fingerprint, seed, t) alone: the same for every subject, batch and worker.
        """
        return self._posterior(arrays, self.embed(arrays), subject_ids, draws, seed)

    def embed(self, arrays: np.ndarray) -> Tensor:
        """Return the embeddings of arrays, [subject, embedding]."""
        return embed(self.encoder, arrays, self.settings.precision, self.settings.accelerator)

    def outputs(self, arrays: np.ndarray, draws: int | None = None, seed: int | None = None) -> np.ndarray:
        """Return what every draw says of arrays: [subject, draw, output], before recalibration."""
        return self._outputs(arrays, self.embed(arrays), draws, seed)

    def _posterior(
        self,
        arrays: np.ndarray,
        embeddings: Tensor,
        subject_ids: Sequence[str] | np.ndarray | None = None,
        draws: int | None = None,
        seed: int | None = None,
    ) -> Any:
        count = len(embeddings)
        ids = np.array([str(i) for i in range(count)] if subject_ids is None else list(subject_ids), dtype=object)
        distance = self.geometry.distance(embeddings.numpy())
        found = self.layout.posterior(self._outputs(arrays, embeddings, draws, seed), ids, distance)
        return found if self.recalibration is None else self.recalibration.apply(found)  # type: ignore[arg-type]

    def _outputs(self, arrays: np.ndarray, embeddings: Tensor, draws: int | None, seed: int | None) -> np.ndarray:
        seed = self.settings.seed if seed is None else seed
        name = self.fingerprint()
        generators = [generator(name, seed, t) for t in range(draws or self.settings.draws)]
        if self.state is not None:
            features = _features(self.head, embeddings)
            return outputs_.apply(laplace.draws(self.state, generators).numpy(), features.numpy())
        return np.stack([self._of_draw(arrays, embeddings, one) for one in generators], axis=1)

    @torch.inference_mode()
    def _of_draw(self, arrays: np.ndarray, embeddings: Tensor, random: torch.Generator) -> np.ndarray:
        """Return what one draw says; the encoder runs again only where the draw replaces a part of it."""
        inner, outer = (_drawn(part, self.settings, random) for part in (self.encoder, self.head))
        if not inner and not outer:
            missing = uncertainty.method(self.settings.uncertainty).MISSING
            raise GreenpeaError(f"all draws of this network would be the same: {missing}")
        blocks: Iterable[Tensor] = embeddings.split(MICRO_BATCH)
        if inner:
            images = in_blocks(to_unit, torch.from_numpy(arrays))
            blocks = (layers.apply(self.encoder, inner, block) for block in images)
        return torch.cat([layers.apply(self.head, outer, block) for block in blocks]).numpy()


def _drawn(part: nn.Module, settings: Learning, random: torch.Generator) -> dict[str, Tensor]:
    """Return what one draw replaces in an encoder or a head, by name: Gaussian weights, or masks."""
    if any(isinstance(layer, variational.Layer) for layer in part.modules()):
        return variational.draw(part, random)
    if settings.uncertainty not in ("dropout", "encoder-dropout"):
        return {}
    silent = [(name, layer) for name, layer in part.named_modules() if isinstance(layer, Silencing | Dropped)]
    return {f"{name}.mask": layer.draw(random) for name, layer in silent}


@torch.inference_mode()
def _features(head: nn.Sequential, embeddings: Tensor) -> Tensor:
    """Return what the head's last layer looks at."""
    body = head[:-1].eval()
    parts = list(in_blocks(body, embeddings))
    return torch.cat(parts).clone() if parts else embeddings.new_zeros(0, head[-1].in_features)


# ---- learning ----------------------------------------------------------------------------------------


def learn_labels(
    arrays: np.ndarray,
    labels: Sequence[str] | np.ndarray,
    *,
    noise: Noise = "each",
    hidden: Sequence[int] = (),
    validation: np.ndarray | None = None,
    start: nn.Module | None = None,
    settings: Learning | None = None,
    question: str = "label",
    report: Report = silent,
) -> ArrayModel:
    """Learn the class of arrays [subject, channel, …] of one to three dimensions (or plain numbers [subject, number]).

    ``labels`` are names; an empty one is unknown. ``noise`` of the logits: see `LabelLoss`. ``hidden`` are the sizes of
    the head's hidden layers. ``validation`` (boolean, per subject; by default 15 % at random) is kept from the
    gradients. ``start`` is an encoder to begin with; with ``settings.freeze`` it stays as it is. Raises GreenpeaError
    where there is too little to learn from, and where an array has a value that is not a number.
    """
    layout = LabelLayout.of(labels, noise, question)
    codes = layout.codes(labels)
    layout.tree  # noqa: B018  raises where the classes are no question
    return _learn(arrays, codes, codes >= 0, layout, hidden, validation, start, settings or Learning(), report)


def learn_measurements(
    arrays: np.ndarray,
    values: np.ndarray,
    targets: Sequence[str],
    units: Sequence[str],
    *,
    hidden: Sequence[int] = (),
    validation: np.ndarray | None = None,
    start: nn.Module | None = None,
    settings: Learning | None = None,
    report: Report = silent,
) -> ArrayModel:
    """Learn numbers, and how uncertain each is, from arrays: ``values`` [subject, target]; NaN is unknown.

    ``targets`` and ``units`` name the columns ("1" for a pure number). The others are as in `learn_labels`.
    """
    values = np.asarray(values, np.float64).reshape(len(values), -1)
    if values.shape[1] != len(targets) or len(targets) != len(units):
        raise GreenpeaError(
            f"values have {values.shape[1]} columns, with {len(targets)} names and {len(units)} units: give one each"
        )
    layout = MeasurementLayout.of(values, targets, units)
    known = np.isfinite(values).any(axis=1)
    return _learn(arrays, values, known, layout, hidden, validation, start, settings or Learning(), report)


def _learn(
    arrays: np.ndarray,
    targets: np.ndarray,
    known: np.ndarray,
    layout: LabelLayout | MeasurementLayout,
    hidden: Sequence[int],
    validation: np.ndarray | None,
    start: nn.Module | None,
    settings: Learning,
    report: Report,
) -> ArrayModel:
    if settings.uncertainty not in METHODS:
        raise GreenpeaError(
            f"uncertainty {settings.uncertainty!r} is for votes; for labels and measurements there are "
            f"{', '.join(METHODS)}"
        )
    learned, kept = _rows(arrays, known, validation, settings.seed)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.manual_seed(settings.seed)
        task = _Task(arrays, as_targets(layout, targets), learned, kept, _loss(layout), settings, report)
        encoder, head, history = _trained(task, start, hidden)
        embeddings = [
            embed(encoder, arrays, settings.precision, settings.accelerator, rows) for rows in (learned, kept)
        ]
        geometry = Geometry.of(*(value.numpy() for value in embeddings))
        model = ArrayModel(encoder, head, layout, settings, geometry, history=history)
        aside = arrays[kept], embeddings[1], targets[kept]
        if settings.uncertainty == "laplace":
            model = _with_laplace(model, task, embeddings[0], *aside)
        if settings.recalibrate:
            model = replace(model, recalibration=_recalibration(model, *aside))
        return model


@dataclass(frozen=True, eq=False)
class _Task:
    """What is learned from, and how."""

    arrays: np.ndarray
    targets: Tensor
    learned: np.ndarray
    kept: np.ndarray
    loss: LabelLoss | MeasurementLoss
    settings: Learning
    report: Report


def _rows(
    arrays: np.ndarray, known: np.ndarray, validation: np.ndarray | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to learn from and to validate on, checked."""
    if arrays.ndim < 2 or len(arrays) != len(known):
        raise GreenpeaError(
            f"arrays of shape {arrays.shape} for {len(known)} subjects: bring one array a subject, channels first"
        )
    if np.issubdtype(arrays.dtype, np.floating):
        whole = np.isfinite(arrays.reshape(len(arrays), -1)).all(axis=1)
        if not whole.all():
            raise GreenpeaError(
                f"the array in row {int(np.argmin(whole))} has values that are not numbers ({int((~whole).sum())} rows "
                f"have): fill or leave them out"
            )
    if validation is None:
        # Not the plain seed, whose first numbers the arrays themselves may have been simulated with.
        validation = np.random.default_rng([seed, len(known)]).random(len(known)) < VALIDATION
    learned, kept = np.flatnonzero(known & ~validation), np.flatnonzero(known & validation)
    if len(learned) < FEWEST[0] or len(kept) < FEWEST[1]:
        raise GreenpeaError(
            f"{len(learned)} subjects to learn from and {len(kept)} to validate on are known; at least {FEWEST[0]} and "
            f"{FEWEST[1]} are needed"
        )
    return learned, kept


def _loss(layout: LabelLayout | MeasurementLayout) -> LabelLoss | MeasurementLoss:
    return LabelLoss(layout) if isinstance(layout, LabelLayout) else MeasurementLoss(layout)


def _trained(
    task: _Task, start: nn.Module | None, hidden: Sequence[int]
) -> tuple[nn.Module, nn.Sequential, training.History]:
    """Return encoder and head after training; of a frozen encoder only the head is trained, on embeddings made once."""
    settings = task.settings
    first = task.loss.start(task.targets[torch.from_numpy(task.learned)])
    if settings.freeze:
        if start is None:
            raise GreenpeaError("settings.freeze keeps an encoder as it is: give it as `start`")
        values = embed(start, task.arrays, settings.precision, settings.accelerator).numpy()
        head = prepared_head(
            make_head(values.shape[1], hidden, first, dropout_rates(start, hidden, settings)), settings
        )
        best, history = _fit(replace(task, arrays=values), head, None)
        assert isinstance(best, nn.Sequential)
        return start, best.cpu().eval(), history
    encoder = copy.deepcopy(start) if start is not None else _encoder(task.arrays, settings)
    rates = dropout_rates(encoder, hidden, settings)
    head = make_head(int(encoder.embedding_size), hidden, first, rates)  # type: ignore[arg-type]
    network = nn.Sequential(prepared_encoder(encoder, settings), prepared_head(head, settings))
    if task.arrays.ndim in FORMATS:
        network = network.to(memory_format=FORMATS[task.arrays.ndim])
    best, history = _fit(task, network, _augmentation(task))
    assert isinstance(best, nn.Sequential)
    trained, head = best.cpu().eval()
    assert isinstance(head, nn.Sequential)
    return trained, head, history


def _encoder(arrays: np.ndarray, settings: Learning) -> nn.Module:
    if arrays.ndim == 2:
        return Plain(arrays.shape[1])
    return encoders.build(
        settings.encoder, arrays.shape[1], max(arrays.shape[2:]), settings.width, settings.pretrained, arrays.ndim - 2
    )


def _augmentation(task: _Task) -> Augmentation | None:
    """Return how images are varied; spectra, cubes and plain numbers stay as they are."""
    if task.arrays.ndim != 4:
        return None
    turned = task.settings.orientation
    if turned == "auto":
        turned = probe(task.arrays, task.learned, np.random.default_rng(task.settings.seed)).orientation
    return task.settings.augmentation(turned)


def _fit(task: _Task, network: nn.Module, augmentation: Augmentation | None) -> tuple[nn.Module, training.History]:
    settings, count = task.settings, len(task.learned)
    recipe = settings.recipe(count)

    def progress(epoch: int, history: training.History) -> None:
        words = f"training {history.train[-1]:.3f}, held out {history.held_out[-1]:.3f} nats per subject"
        task.report("training", (epoch + 1) / recipe.epochs, words)

    return training.fit(
        network,
        ImageBatches(task.arrays, task.learned, task.targets, settings.batch(count), augmentation, settings.seed),
        uncertainty.method(settings.uncertainty).objective(network, task.loss, count, settings),
        held_out=PlainBatches(task.arrays, task.kept, task.targets, 256),
        recipe=recipe,
        fabric=training.make_fabric(settings.precision, accelerator=settings.accelerator),
        progress=progress,
    )


# ---- doubt -------------------------------------------------------------------------------------------


def _with_laplace(
    model: ArrayModel, task: _Task, learned: Tensor, arrays: np.ndarray, kept: Tensor, truth: np.ndarray
) -> ArrayModel:
    """Return the model with the Gaussian around its last layer whose prior predicts validation best."""
    last = model.head[-1]
    mean = torch.cat([last.weight.T, last.bias[None]]).detach().float()
    targets = task.targets[torch.from_numpy(task.learned)]
    found = curvatures(task.loss, mean, _features(model.head, learned), targets)
    models = [replace(model, state=_around(task.loss, mean, found, precision)) for precision in laplace.PRECISIONS]
    return max(models, key=lambda one: _score(one._posterior(arrays, kept), truth))


def _around(loss: LabelLoss | MeasurementLoss, mean: Tensor, found: list[Tensor], precision: float) -> laplace.State:
    factors, columns = {}, {}
    for place, (group, curvature) in enumerate(zip(loss.groups(), found, strict=True)):
        stiff = curvature + precision * torch.eye(len(curvature), dtype=torch.float64)
        factors[str(place)], columns[str(place)] = torch.linalg.cholesky(stiff).float(), tuple(group)
    return laplace.State(mean, factors, columns)


def _score(posterior: Posterior | MeasurementPosterior, truth: np.ndarray) -> float:
    """Return ln p of known labels or values, in nats."""
    if isinstance(posterior, MeasurementPosterior):
        return float(posterior.log_density(truth).sum())
    mean = posterior.mean(posterior.tree.slugs[0])
    return float(np.log(np.maximum(mean[np.arange(len(truth)), truth], 1e-300)).sum())


def _recalibration(model: ArrayModel, arrays: np.ndarray, kept: Tensor, truth: np.ndarray) -> Recalibration | Widening:
    posterior = model._posterior(arrays, kept)
    if isinstance(model.layout, MeasurementLayout):
        return widen(posterior, truth)
    return recalibrate(posterior, model.layout.votes(truth, posterior.subject_ids))
