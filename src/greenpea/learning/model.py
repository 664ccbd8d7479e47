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
from greenpea.learning.resuming import Keep
from greenpea.learning.settings import ON_FROZEN, Learning
from greenpea.learning.uncertainty import ensemble
from greenpea.learning.uncertainty.layers import plain
from greenpea.learning.uncertainty.skeleton import Learned, Pass, head_of
from greenpea.outputs import Geometry, Layout
from greenpea.posterior import Posterior
from greenpea.votes import Votes

# Prior precisions tried for a head on a frozen encoder; the one that best predicts the validation votes is kept.
PRECISIONS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)

Report = Callable[[str, float, str], None]  # stage, share done, a few words
Network = Callable[[Learning], "Model"]  # settings → a model of that training, made or remembered


def silent(stage: str, share: float, words: str) -> None:
    """Report nothing."""


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of a model's weights: the heads [draw, embedding + 1, output], and the encoder's passes that they need."""

    heads: Tensor
    passes: tuple[Pass, ...]


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

    def draw(self, draws: int | None = None, seed: int | None = None) -> Draws:
        """Return draws of the weights.

        Draw t is a function of (fingerprint, seed, t) alone: the same for every subject, batch and worker. Raises
        GreenpeaError where the method has nothing to draw, naming what is missing.
        """
        seed, count = self.settings.seed if seed is None else seed, draws or self.settings.draws
        name = self.fingerprint()
        heads_ = [self.method.draw(self.state, t, generator(name, seed, t)) for t in range(count)]
        inside = [generator(f"{name}:encoder", seed, t) for t in range(count)]
        return Draws(torch.stack(heads_), tuple(self.method.passes(self.encoder, self.state, inside)))

    def posterior(self, embeddings: Tensor, subject_ids: np.ndarray, drawn: Draws) -> Posterior:
        """Return the posterior of subjects from their embeddings, for draws that one pass of the encoder serves.

        Raises GreenpeaError where the method needs the images again: `posterior_of` takes them.
        """
        if len(drawn.passes) > 1 or not drawn.passes[0].as_trained:
            raise GreenpeaError(
                f"the draws of {self.settings.uncertainty!r} are of the encoder too, which embeddings cannot tell: "
                f"predict from images, or choose a method in the head such as 'laplace'"
            )
        values = embeddings.numpy()
        return self._posterior(outputs.apply(drawn.heads.numpy(), values), values, subject_ids)

    def posterior_of(
        self,
        images: np.ndarray,
        subject_ids: np.ndarray,
        drawn: Draws,
        where: Learning | None = None,
        rows: np.ndarray | None = None,
    ) -> Posterior:
        """Return the posterior of prepared images [subject, channel, y, x], or of ``rows`` of them, under draws.

        ``where`` says at which precision and on what to compute, by default as in training. The encoder passes as
        often as `uncertainty` says for the method, and once more for the distance where every pass is of a draw.
        """
        where, found, as_trained = where or self.settings, None, None

        def see(tensors: Callable[[], Any]) -> np.ndarray:
            return embed(self.encoder, images, where.precision, where.accelerator, rows, tensors).numpy()

        found = np.empty((len(subject_ids), len(drawn.heads), self.layout.outputs), np.float32)
        for one in drawn.passes:
            values, some = see(one.tensors), list(one.draws)
            found[:, some] = outputs.apply(drawn.heads[some].numpy(), values)
            as_trained = values if one.as_trained else as_trained
        return self._posterior(found, see(dict) if as_trained is None else as_trained, subject_ids)

    def _posterior(self, found: np.ndarray, embeddings: np.ndarray, subject_ids: np.ndarray) -> Posterior:
        distance = self.geometry.distance(embeddings)
        return self.recalibration.apply(outputs.posterior(self.layout, found, subject_ids, distance))

    def predict(
        self, images: np.ndarray, subject_ids: np.ndarray, draws: int | None = None, seed: int | None = None
    ) -> Posterior:
        """Return the posterior of prepared images [subject, channel, y, x]: see `posterior_of`."""
        return self.posterior_of(images, subject_ids, self.draw(draws, seed))


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
    network: Network | None = None,
    keep: Keep | None = None,
) -> Model:
    """Train on prepared images [subject, channel, y, x] and the votes of the same subjects.

    ``validation`` (boolean, per subject) are kept from the gradients: they stop the training, choose the
    head's prior and recalibrate. ``start`` gives its encoder, whatever its tree. ``network`` gives the trained networks
    that methods share (`shared`): by default they are trained here. With ``keep``, a training that was killed goes on.
    Subjects without a vote teach nothing and are left out. Raises GreenpeaError when no votes remain.
    """
    asked = votes.total > 0
    learned, kept = np.flatnonzero(asked & ~validation), np.flatnonzero(asked & validation)
    if len(learned) < 10 or len(kept) < 5:
        raise GreenpeaError(
            f"{len(learned)} training and {len(kept)} validation subjects have votes; at least 10 and 5 are needed: "
            f"bring more votes, or change the shares split.test and split.validation"
        )
    material = _Material(images, votes, learned, kept, preparation, start, keep)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        if settings.uncertainty == "ensemble":
            return _ensemble(material, settings, report, network)
        if network is not None and settings.uncertainty in ON_FROZEN:
            return _doubting_anew(network(shared(settings)), material, settings)
        return _learn(material, settings, report)


def shared(settings: Learning, member: int = 0) -> Learning:
    """Return the settings of the training that methods share: what is fitted afterwards has its default.

    ``member`` is the number of an ensemble's network; the first is the network that would be trained alone.
    """
    digest = hashlib.sha256(f"member:{settings.seed}:{member}".encode()).digest()
    names = ("encoder_dropout", "members", "prior", "prior_width", "temperature", "draws")
    usual: dict[str, Any] = {name: Learning.model_fields[name].default for name in names}
    usual["seed"] = int.from_bytes(digest[:4], "big") if member else settings.seed
    return settings.model_copy(update=usual | {"uncertainty": "laplace", "recalibrate": False})


@dataclass(frozen=True, eq=False)
class _Material:
    """What is learned from: images, votes, and the rows that teach and that are kept aside."""

    images: np.ndarray
    votes: Votes
    learned: np.ndarray
    kept: np.ndarray
    preparation: Preparation
    start: Model | None
    keep: Keep | None

    def packed(self, layout: Layout) -> Tensor:
        return heads.Targets(layout).pack(self.votes)

    def evidence(self, encoder: encoders.Encoder, layout: Layout, settings: Learning) -> _Evidence:
        """Return votes and embeddings for the head."""
        seen = [embed(encoder, self.images, settings.precision, settings.accelerator, rows) for rows in self.rows]
        return _Evidence(self.images, self.votes, *self.rows, self.packed(layout), *seen)

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        return self.learned, self.kept


def _learn(material: _Material, settings: Learning, report: Report) -> Model:
    torch.manual_seed(settings.seed)
    images, votes, learned, kept = material.images, material.votes, material.learned, material.kept
    method = uncertainty.method(settings.uncertainty)
    layout = Layout(votes.tree, settings.likelihood)
    bias = heads.constant_bias(layout, votes.select(learned))
    encoder = _encoder(images.shape[1], material.preparation, settings, material.start)
    turned = _orientation(images, learned, settings)
    network = _network(method.prepare(encoder, settings), layout, bias, settings)
    history = training.History()
    if not settings.freeze:
        network, history = _train(network, material, layout, settings, turned, report)
    report("head", 0.0, "")
    evidence = material.evidence(network[0], layout, settings)
    ready = Model(
        encoder=network[0],
        layout=layout,
        preparation=material.preparation.model_copy(update={"channels": images.shape[1]}),
        settings=settings,
        channels=images.shape[1],
        state=None,
        geometry=Geometry.of(evidence.training.numpy(), evidence.validation.numpy()),
        recalibration=Recalibration.identity(votes.tree),
        history=history,
        facts={"orientation": turned, "subjects": {"training": len(learned), "validation": len(kept)}},
        learned_from=_seen(votes, learned, kept, material.start),
    )
    mean = _frozen_head(ready, bias, evidence, report) if settings.freeze else head_of(plain(network[2]))
    model = _with_doubt(ready, None if settings.freeze else network[2], mean, evidence)
    report("head", 1.0, "")
    return _recalibrated(model, evidence)


def _doubting_anew(model: Model, material: _Material, settings: Learning) -> Model:
    """Return a model trained for one of `ON_FROZEN` with the doubt that the settings ask for."""
    evidence = material.evidence(model.encoder, model.layout, settings)
    plain_ = Recalibration.identity(model.layout.tree)
    ready = replace(model, settings=settings, recalibration=plain_, facts=dict(model.facts))
    return _recalibrated(_with_doubt(ready, None, model.state.mean, evidence), evidence)


def _ensemble(material: _Material, settings: Learning, report: Report, network: Network | None) -> Model:
    """Return the ensemble of networks trained one after the other, recalibrated together."""
    members = []
    for number in range(settings.members):

        def told(stage: str, share: float, words: str, number: int = number) -> None:
            report(f"member {number + 1} of {settings.members}: {stage}", share, words)

        mine = shared(settings, number)
        members.append(network(mine) if network else _learn(material, mine, told))
    first = members[0]
    encoders_ = [{name: v.clone() for name, v in one.encoder.state_dict().items()} for one in members]
    if any(
        all(torch.equal(a, b) for a, b in zip(encoders_[0].values(), other.values(), strict=True))
        for other in encoders_[1:]
    ):
        raise _all_the_same(settings)
    state = ensemble.State(tuple(one.state for one in members), tuple(encoders_[1:]))
    facts = first.facts | {"members": [one.settings.seed for one in members]}
    joined = replace(first, settings=settings, state=state, facts=facts)
    return _recalibrated(joined, material.evidence(first.encoder, first.layout, settings))


def _all_the_same(settings: Learning) -> GreenpeaError:
    missing = uncertainty.method(settings.uncertainty).MISSING
    return GreenpeaError(f"all draws of {settings.uncertainty!r} say the same of every subject: {missing}")


@dataclass(frozen=True, eq=False)
class _Evidence:
    """The votes and embeddings that the head is fitted on and judged by."""

    images: np.ndarray
    votes: Votes
    learned: np.ndarray
    kept: np.ndarray
    packed: Tensor
    training: Tensor
    validation: Tensor

    def predict(self, model: Model) -> Posterior:
        """Return the model's posterior of the validation subjects."""
        ids, drawn = self.votes.subject_ids[self.kept], model.draw()
        if len(drawn.passes) == 1:
            return model.posterior(self.validation, ids, drawn)
        return model.posterior_of(self.images, ids, drawn, rows=self.kept)

    def score_of(self, layout: Layout, mean: Tensor) -> float:
        """Return ln p of the validation votes under one head, in nats."""
        found = self.validation @ mean[:-1] + mean[-1]
        values = heads.Targets(layout).log_likelihood(found, self.packed[torch.from_numpy(self.kept)])
        return float(sum(value.sum() for value in values.values()))

    def score(self, model: Model) -> float:
        """Return ln p of the validation votes, in nats."""
        held, posterior = self.votes.select(self.kept), self.predict(model)
        return float(sum(posterior.log_pmf(slug, held).sum() for slug in held.tree.slugs))


def _with_doubt(model: Model, head: nn.Module | None, mean: Tensor, evidence: _Evidence) -> Model:
    """Return the model with the distribution of heads around ``mean`` that predicts validation best."""
    packed = evidence.packed[torch.from_numpy(evidence.learned)]
    learned = Learned(model.layout, head, mean, evidence.training, packed, model.settings)
    some = [replace(model, state=state) for state in model.method.candidates(learned)]
    return some[0] if len(some) == 1 else max(some, key=evidence.score)


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
    """Return the model recalibrated, where that is wanted. Raises GreenpeaError where all draws say the same."""
    posterior = evidence.predict(model)
    if all((values == values[:1]).all() for values in posterior.parameters.values()):
        raise _all_the_same(model.settings)
    if not model.settings.recalibrate:
        return model
    return replace(model, recalibration=recalibrate(posterior, evidence.votes.select(evidence.kept)))


def _encoder(channels: int, preparation: Preparation, settings: Learning, start: Model | None) -> encoders.Encoder:
    encoder = encoders.build(settings.encoder, channels, preparation.size, settings.width, settings.published)
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
    encoder.load_state_dict(plain(start.encoder).state_dict())
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
    head = uncertainty.method(settings.uncertainty).prepare_head(head, settings)
    network = nn.Sequential(encoder, nn.Dropout(settings.dropout), head)
    return network.to(memory_format=torch.channels_last)


def _train(
    network: nn.Sequential,
    material: _Material,
    layout: Layout,
    settings: Learning,
    turned: Literal["any", "upright"],
    report: Report,
) -> tuple[nn.Sequential, training.History]:
    images, learned, packed = material.images, material.learned, material.packed(layout)
    recipe, size = settings.recipe(len(learned)), settings.batch(len(learned))
    method, loss = uncertainty.method(settings.uncertainty), heads.Targets(layout).loss

    def progress(epoch: int, history: training.History) -> None:
        words = f"training {history.train[-1]:.3f}, held out {history.held_out[-1]:.3f} nats per subject"
        report("training", (epoch + 1) / recipe.epochs, words)

    report("training", 0.0, "")
    best, history = training.fit(
        network,
        ImageBatches(images, learned, packed, size, settings.augmentation(turned), settings.seed),
        method.objective(network, loss, len(learned), settings),
        held_out=PlainBatches(images, material.kept, packed, 256),
        recipe=recipe,
        fabric=training.make_fabric(settings.precision, settings.devices, settings.accelerator),
        progress=progress,
        keep=material.keep.part(str(settings.seed)) if material.keep else None,
    )
    assert isinstance(best, nn.Sequential)
    return best.cpu(), history
