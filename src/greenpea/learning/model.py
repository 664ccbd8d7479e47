"""The model: an encoder, a head with its doubt, and all it takes to use them again. `learn` makes one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from greenpea import outputs
from greenpea.calibration import Recalibration, recalibrate
from greenpea.errors import GreenpeaError
from greenpea.images import Preparation
from greenpea.learning import encoders, fitting, heads, orientation, training, uncertainty
from greenpea.learning.batches import ImageBatches, PlainBatches
from greenpea.learning.prediction import embed
from greenpea.learning.settings import Learning
from greenpea.outputs import Geometry, Layout
from greenpea.posterior import Posterior
from greenpea.votes import Votes

# Prior precisions tried for a head on a frozen encoder; the one that best predicts the validation votes is kept.
PRECISIONS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)

Report = Callable[[str, float, str], None]  # stage, share done, a few words
Weights = Tensor  # draws of the head [draw, embedding + 1, output], for those who must not know torch


def silent(stage: str, share: float, words: str) -> None:
    """Report nothing."""


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model. ``facts`` is what a checkpoint says of its origin (settings, seed, versions, hashes)."""

    encoder: encoders.Encoder
    layout: Layout
    preparation: Preparation
    settings: Learning
    channels: int
    state: Any
    geometry: Geometry
    recalibration: Recalibration
    history: training.History = field(default_factory=training.History)
    facts: dict[str, Any] = field(default_factory=dict)
    learned_from: tuple[str, ...] = ()  # subjects that the encoder or the head, or the start of either, has seen

    @property
    def method(self) -> Any:
        """The module of the uncertainty method."""
        return uncertainty.method(self.settings.uncertainty)

    def tensors(self) -> dict[str, Tensor]:
        """Return every number of the model by name, as a checkpoint keeps them."""
        kept = {f"encoder.{name}": value for name, value in self.encoder.state_dict().items()}
        kept |= {f"head.{name}": value for name, value in self.method.tensors(self.state).items()}
        kept |= {f"geometry.{name}": torch.from_numpy(getattr(self.geometry, name)) for name in ("mean", "factor")}
        return {name: value.detach().cpu().contiguous() for name, value in kept.items()}

    def fingerprint(self) -> str:
        """Return the SHA-256 of the encoder's, the head's and the geometry's numbers: one model, one set of draws."""
        digest = hashlib.sha256()
        for name, value in sorted(self.tensors().items()):
            digest.update(
                name.encode() + str(value.dtype).encode() + value.reshape(-1).view(torch.uint8).numpy().tobytes()
            )
        return digest.hexdigest()

    def draw(self, draws: int | None = None, seed: int | None = None) -> Tensor:
        """Return draws of the head's weights [draw, embedding + 1, output].

        Draw t is a function of (fingerprint, seed, t) alone: the same for every subject, batch and worker.
        """
        seed = self.settings.seed if seed is None else seed
        name = self.fingerprint()
        weights = [self.method.draw(self.state, generator(name, seed, t)) for t in range(draws or self.settings.draws)]
        return torch.stack(weights)

    def posterior(self, embeddings: Tensor, subject_ids: np.ndarray, weights: Tensor) -> Posterior:
        """Return the posterior of subjects from their embeddings and draws of the head (`draw`)."""
        values = embeddings.numpy()
        found = outputs.apply(weights.numpy(), values)
        distance = self.geometry.distance(values)
        return self.recalibration.apply(outputs.posterior(self.layout, found, subject_ids, distance))

    def predict(
        self, images: np.ndarray, subject_ids: np.ndarray, draws: int | None = None, seed: int | None = None
    ) -> Posterior:
        """Return the posterior of prepared images [subject, channel, y, x]: one pass, however many draws."""
        embeddings = embed(self.encoder, images, self.settings.precision, self.settings.accelerator)
        return self.posterior(embeddings, subject_ids, self.draw(draws, seed))


def generator(name: str, seed: int, t: int) -> torch.Generator:
    """Return the random numbers of draw ``t``: a function of these three alone."""
    digest = hashlib.sha256(f"{name}:{seed}:{t}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


# ---- learning ----------------------------------------------------------------------------------------


def learn(
    images: np.ndarray,
    votes: Votes,
    validation: np.ndarray,
    preparation: Preparation,
    settings: Learning,
    start: Model | None = None,
    report: Report = silent,
) -> Model:
    """Train on prepared images [subject, channel, y, x] and the votes of the same subjects.

    ``validation`` (boolean, per subject) are kept from the gradients: they stop the training, choose the
    head's prior and recalibrate. ``start`` gives its encoder, whatever its tree was.
    Subjects without a vote teach nothing and are left out. Raises GreenpeaError when no votes remain.
    """
    asked = votes.total > 0
    learned, kept = np.flatnonzero(asked & ~validation), np.flatnonzero(asked & validation)
    if len(learned) < 10 or len(kept) < 5:
        raise GreenpeaError(
            f"{len(learned)} training and {len(kept)} validation subjects have votes; at least 10 and 5 are needed: "
            f"bring more votes, or a smaller test share"
        )
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.manual_seed(settings.seed)
        return _learn(images, votes, learned, kept, preparation, settings, start, report)


def _learn(
    images: np.ndarray,
    votes: Votes,
    learned: np.ndarray,
    kept: np.ndarray,
    preparation: Preparation,
    settings: Learning,
    start: Model | None,
    report: Report,
) -> Model:
    layout = Layout(votes.tree, settings.likelihood)
    packed = heads.Targets(layout).pack(votes)
    bias = heads.constant_bias(layout, votes.select(learned))
    encoder = _encoder(images.shape[1], preparation, settings, start)
    turned = _orientation(images, learned, settings)
    network = _network(encoder, layout, bias, settings)
    history = training.History()
    if not settings.freeze:
        network, history = _train(network, images, packed, learned, kept, layout, settings, turned, report)
    encoder = network[0]
    report("head", 0.0, "")
    values = [embed(encoder, images, settings.precision, settings.accelerator, rows) for rows in (learned, kept)]
    ready = Model(
        encoder=encoder,
        layout=layout,
        preparation=preparation.model_copy(update={"channels": images.shape[1]}),
        settings=settings,
        channels=images.shape[1],
        state=None,
        geometry=Geometry.of(*(value.numpy() for value in values)),
        recalibration=Recalibration.identity(votes.tree),
        history=history,
        facts={"orientation": turned, "subjects": {"training": len(learned), "validation": len(kept)}},
        learned_from=_seen(votes, learned, kept, start),
    )
    evidence = _Evidence(votes, learned, kept, packed, *values)
    if settings.freeze:
        mean = _frozen_head(ready, bias, evidence, report)
    else:
        mean = torch.cat([network[2].weight.T, network[2].bias[None]]).detach().float()
    _, model = _with_doubt(ready, mean, evidence)
    report("head", 1.0, "")
    return _recalibrated(model, evidence)


@dataclass(frozen=True, eq=False)
class _Evidence:
    """The votes and embeddings that the head is fitted on and judged by."""

    votes: Votes
    learned: np.ndarray
    kept: np.ndarray
    packed: Tensor
    training: Tensor
    validation: Tensor

    def predict(self, model: Model) -> Posterior:
        """Return the model's posterior of the validation subjects."""
        return model.posterior(self.validation, self.votes.subject_ids[self.kept], model.draw())

    def score_of(self, layout: Layout, mean: Tensor) -> float:
        """Return ln p of the validation votes under one head, in nats."""
        found = self.validation @ mean[:-1] + mean[-1]
        values = heads.Targets(layout).log_likelihood(found, self.packed[torch.from_numpy(self.kept)])
        return float(sum(value.sum() for value in values.values()))

    def score(self, model: Model) -> float:
        """Return ln p of the validation votes, in nats."""
        held, posterior = self.votes.select(self.kept), self.predict(model)
        return float(sum(posterior.log_pmf(slug, held).sum() for slug in held.tree.slugs))


def _with_doubt(model: Model, mean: Tensor, evidence: _Evidence) -> tuple[float, Model]:
    """Return the model with the distribution of heads around ``mean`` that predicts validation best, and its score."""
    packed = evidence.packed[torch.from_numpy(evidence.learned)]
    states = model.method.candidates(model.layout, mean, evidence.training, packed, model.settings.dropout)
    some = [replace(model, state=state) for state in states]
    return max(((evidence.score(one), one) for one in some), key=lambda pair: pair[0])


def _frozen_head(model: Model, bias: Tensor, evidence: _Evidence, report: Report) -> Tensor:
    """Return a head drawn towards the constant predictor, by as much as predicts validation best."""
    anchor = torch.zeros(model.encoder.embedding_size + 1, len(bias))
    anchor[-1] = bias
    packed = evidence.packed[torch.from_numpy(evidence.learned)]
    found: list[tuple[float, Tensor]] = []
    for index, precision in enumerate(PRECISIONS):
        report("head", index / len(PRECISIONS), f"prior precision {precision:g}")
        mean = fitting.refit(model.layout, evidence.training, packed, anchor, precision)
        found.append((evidence.score_of(model.layout, mean), mean))
    return max(found, key=lambda pair: pair[0])[1]


def _recalibrated(model: Model, evidence: _Evidence) -> Model:
    if not model.settings.recalibrate:
        return model
    found = recalibrate(evidence.predict(model), evidence.votes.select(evidence.kept))
    return replace(model, recalibration=found)


def _encoder(channels: int, preparation: Preparation, settings: Learning, start: Model | None) -> encoders.Encoder:
    encoder = encoders.build(settings.encoder, channels, preparation.size, settings.width, settings.pretrained)
    if start is None:
        if settings.freeze:
            raise GreenpeaError("learning.freeze keeps an encoder as it is: name the model it comes from with --from")
        return encoder
    if start.channels != channels:
        raise GreenpeaError(
            f"the starting model saw {start.channels} channels, these images have {channels}: "
            f"set images.channels={start.channels}, or start from another model"
        )
    if start.settings.encoder != settings.encoder or start.settings.width != settings.width:
        raise GreenpeaError(
            f"the starting model's encoder is {start.settings.encoder!r} of width {start.settings.width}: "
            f"set learning.encoder and learning.width to these"
        )
    encoder.load_state_dict(start.encoder.state_dict())
    return encoder


def _seen(votes: Votes, learned: np.ndarray, kept: np.ndarray, start: Model | None) -> tuple[str, ...]:
    before = start.learned_from if start else ()
    return tuple(sorted({*before, *map(str, votes.subject_ids[learned]), *map(str, votes.subject_ids[kept])}))


def _orientation(images: np.ndarray, rows: np.ndarray, settings: Learning) -> Literal["any", "upright"]:
    if settings.orientation != "auto":
        return settings.orientation
    return orientation.probe(images, rows, np.random.default_rng(settings.seed)).orientation


def _network(encoder: encoders.Encoder, layout: Layout, bias: Tensor, settings: Learning) -> nn.Sequential:
    head = nn.Linear(encoder.embedding_size, layout.outputs)
    nn.init.zeros_(head.weight)
    head.bias.data.copy_(bias)  # begin as the constant predictor: every step from there is something learned
    network = nn.Sequential(encoder, nn.Dropout(settings.dropout), head)
    return network.to(memory_format=torch.channels_last)


def _train(
    network: nn.Sequential,
    images: np.ndarray,
    packed: Tensor,
    learned: np.ndarray,
    kept: np.ndarray,
    layout: Layout,
    settings: Learning,
    turned: Literal["any", "upright"],
    report: Report,
) -> tuple[nn.Sequential, training.History]:
    recipe = settings.recipe(len(learned))
    size = settings.batch(len(learned))

    def progress(epoch: int, history: training.History) -> None:
        words = f"training {history.train[-1]:.3f}, held out {history.held_out[-1]:.3f} nats per subject"
        report("training", (epoch + 1) / recipe.epochs, words)

    report("training", 0.0, "")
    best, history = training.fit(
        network,
        ImageBatches(images, learned, packed, size, settings.augmentation(turned), settings.seed),
        heads.Targets(layout).loss,
        held_out=PlainBatches(images, kept, packed, 256),
        recipe=recipe,
        fabric=training.make_fabric(settings.precision, accelerator=settings.accelerator),
        progress=progress,
    )
    assert isinstance(best, nn.Sequential)
    return best.cpu(), history
