"""Every uncertainty method by the same tests: draws, batches, checkpoints, passes, contraction, bad conditions."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from greenpea import information, outputs
from greenpea.calibration import constant, evaluate
from greenpea.errors import GreenpeaError
from greenpea.images import Preparation
from greenpea.learning import checkpoint, encoders, heads, training
from greenpea.learning.arrays import learn_labels
from greenpea.learning.kept import encoder_of
from greenpea.learning.model import Model, learn, shared
from greenpea.learning.prediction import embed
from greenpea.learning.settings import ON_FROZEN, Learning, Method, Recipe
from greenpea.learning.uncertainty import METHODS, bootstrap, layers, method, variational
from greenpea.learning.uncertainty.skeleton import Learned
from greenpea.outputs import Layout
from greenpea.posterior import Posterior
from greenpea.votes import Votes
from test_learning import crowd, disks

SHORT = Learning(
    epochs=12,
    learning_rate=1e-2,
    width=4,
    draws=6,
    members=2,
    encoder_dropout=0.2,
    temperature=0.01,
    orientation="any",
    batch_size=16,
    precision="32-true",
)
WHOLE = ("ensemble", "encoder-dropout", "variational")  # methods that pass several times


def settings(name: str, **changes: object) -> Learning:
    return Learning.model_validate(SHORT.model_dump() | {"uncertainty": name} | changes)


def material(subjects: int) -> tuple[np.ndarray, Votes, np.ndarray, Preparation]:
    images, size = disks(subjects, 0)
    return images, crowd(size, 0), np.arange(subjects) % 5 == 0, Preparation(size=24)


@cache
def trained(name: str) -> Model:
    return learn(*material(120), settings(name))


def ids(count: int) -> np.ndarray:
    return np.arange(count).astype(str).astype(object)


def test_settings_name_exactly_the_methods_there_are() -> None:
    assert tuple(METHODS) == get_args(Method)
    names = {"COST", "MISSING", "State", "encoder_passes", "prepare", "prepare_head", "objective", "draw", "passes"}
    for name, module in METHODS.items():
        assert names | {"tensors", "restore"} <= set(vars(module)), name


# ---- what all of them promise ------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_beats_not_looking(name: str) -> None:
    images, size = disks(150, 9)
    votes = crowd(size, 9)
    posterior = trained(name).predict(images, votes.subject_ids)
    judged = evaluate(posterior, votes, constant(votes, votes.subject_ids), np.random.default_rng(0))
    assert judged.overall.gain.low > 0
    assert posterior.draws == 6
    assert posterior.variance("q").between.min() > 0


@pytest.mark.parametrize("name", list(METHODS))
def test_draws_hang_on_model_seed_and_number_alone(name: str) -> None:
    model = trained(name)
    images, _ = disks(100, 4)
    whole = model.predict(images, ids(100))
    for batch in (1, 7, 64):
        for at in range(0, 100, batch * 13):
            part = model.predict(images[at : at + batch], ids(100)[at : at + batch])
            np.testing.assert_array_equal(part.parameters["q"], whole.parameters["q"][:, at : at + batch])
            np.testing.assert_array_equal(part.distance, whole.distance[at : at + batch])  # type: ignore[index]
    few = model.predict(images, ids(100), draws=3)
    np.testing.assert_array_equal(few.parameters["q"], whole.parameters["q"][:3])
    if name != "bootstrap":  # whose heads are fitted, and not drawn any more
        other = model.predict(images, ids(100), seed=1)
        assert (other.parameters["q"] != whole.parameters["q"]).any()


@pytest.mark.parametrize("name", list(METHODS))
def test_the_encoder_passes_as_often_as_the_method_says(name: str) -> None:
    model, calls = trained(name), []
    images, _ = disks(64, 4)
    stem = model.encoder.standard.register_forward_hook(lambda *_: calls.append(1))
    try:
        model.predict(images, ids(64), draws=5)
    finally:
        stem.remove()
    drawn = model.draw(5)
    once_more = not any(one.as_trained for one in drawn.passes)  # for the distance
    assert len(calls) - once_more == method(name).encoder_passes(model.settings, 5) == len(drawn.passes)
    assert sorted(t for one in drawn.passes for t in one.draws) == list(range(5))
    assert (len(drawn.passes) == 1) == (name not in WHOLE)


@pytest.mark.parametrize("name", list(METHODS))
def test_checkpoints_come_back_to_the_same_posterior(name: str, tmp_path: Path) -> None:
    model = trained(name)
    again = checkpoint.load(checkpoint.save(model, tmp_path / "run"))
    assert again.fingerprint() == model.fingerprint()
    images, _ = disks(20, 3)
    before, after = model.predict(images, ids(20)), again.predict(images, ids(20))
    np.testing.assert_array_equal(before.parameters["q"], after.parameters["q"])
    np.testing.assert_array_equal(before.distance, after.distance)


@pytest.mark.parametrize("name", WHOLE)
def test_embeddings_are_not_enough_where_the_encoder_doubts(name: str) -> None:
    model = trained(name)
    with pytest.raises(GreenpeaError, match="of the encoder too, which embeddings cannot tell"):
        model.posterior(torch.zeros(2, model.encoder.embedding_size), ids(2), model.draw())


@pytest.mark.parametrize("name", ["encoder-dropout", "variational"])
def test_an_encoder_goes_on_without_its_doubt(name: str) -> None:
    model = trained(name)
    images, size = disks(90, 2)
    kept = encoder_of(model)
    assert not [one for one in kept.encoder.modules() if isinstance(one, layers.Doubting)]
    found = kept.embed(images, "32-true")
    torch.testing.assert_close(torch.from_numpy(found), embed(model.encoder, images, "32-true"), atol=1e-4, rtol=1e-4)
    frozen = settings("laplace", freeze=True)
    other = learn(images, crowd(size, 2), np.arange(90) % 5 == 0, Preparation(size=24), frozen, model)
    np.testing.assert_allclose(embed(other.encoder, images, "32-true").numpy(), found, atol=1e-4)


# ---- contraction -------------------------------------------------------------------------------------


def learned_by(posterior: Posterior) -> float:
    """Return the mean information about the weights in 5 votes, nats."""
    return float(information.of_tree(posterior, 5, np.random.default_rng(0)).value.mean())


def test_doubt_of_an_ensemble_falls_as_votes_grow() -> None:
    judged, _ = disks(80, 8)
    values = []
    for subjects in (40, 640):
        images, size = disks(subjects, 6)
        # As many steps for both: what differs is the data.
        chosen = settings("ensemble", recalibrate=False, epochs=1600 // subjects, patience=99, learning_rate=2e-2)
        validation = np.arange(subjects) % 5 == 0
        model = learn(images, crowd(size, 6), validation, Preparation(size=24), chosen, trained("laplace"))
        values.append(learned_by(model.predict(judged, ids(80), draws=12)))
    assert values[0] > 1.5 * values[1]


def test_doubt_of_a_variational_head_falls_as_votes_grow() -> None:
    """On fixed embeddings, trained until its widths have settled; its Posterior as the method makes it."""
    values, chosen = [], settings("variational-head", temperature=1.0)
    for subjects in (20, 2000):
        torch.manual_seed(0)
        inputs = torch.randn(subjects, 3)
        votes = crowd(torch.sigmoid(inputs[:, 0]).numpy(), 1)
        layout = Layout(votes.tree)
        packed = heads.Targets(layout).pack(votes)
        head = method("variational-head").prepare_head(nn.Linear(3, layout.outputs), chosen)
        network = nn.Sequential(head)
        loss = variational.objective(network, heads.Targets(layout).loss, subjects)
        recipe = Recipe(epochs=250, learning_rate=0.05, patience=250, average=0.0)
        fabric = training.make_fabric("32-true", accelerator="cpu")
        training.fit(network, [(inputs, packed)], loss, held_out=[(inputs, packed)], recipe=recipe, fabric=fabric)
        learned = Learned(layout, head, torch.zeros(4, layout.outputs), inputs, packed, chosen)
        state = next(method("variational-head").candidates(learned))
        drawn = [method("variational-head").draw(state, t, torch.Generator().manual_seed(t)) for t in range(12)]
        found = outputs.apply(torch.stack(drawn).numpy(), torch.randn(80, 3).numpy())
        values.append(learned_by(outputs.posterior(layout, found, ids(80))))
    assert values[0] > 5 * values[1]


def test_doubt_of_dropout_is_its_rate_whatever_was_learned() -> None:
    """It does not contract: the same numbers silence the same channels of a network that has learned more."""
    less, more = learn(*material(60), settings("encoder-dropout", epochs=1)), trained("encoder-dropout")
    for t in range(3):
        masks = [
            method("encoder-dropout").passes(one.encoder, one.state, [torch.Generator().manual_seed(t)])[0].tensors()
            for one in (less, more)
        ]
        assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])
        drawn = [method("encoder-dropout").draw(one.state, t, torch.Generator().manual_seed(t)) for one in (less, more)]
        assert torch.equal((drawn[0][:-1] == 0).all(1), (drawn[1][:-1] == 0).all(1))


def test_doubt_of_a_variational_network_falls_as_data_grow() -> None:
    """What a network of two layers says between its data, of y = sin 3x + noise, once its widths have settled."""
    doubt = []
    for count in (10, 1000):
        generator = torch.Generator().manual_seed(count)
        x = torch.rand(count, 1, generator=generator) * 2 - 1
        y = torch.sin(3 * x) + 0.3 * torch.randn(count, 1, generator=generator)
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1))
        network = variational.of(plain, variational.Gaussian(1.0))
        loss = variational.objective(network, lambda f, t: 0.5 * ((f - t) / 0.3).square().mean(), count)
        recipe = Recipe(epochs=600, learning_rate=0.03, patience=600, average=0.0)
        fabric = training.make_fabric("32-true", accelerator="cpu")
        training.fit(network, [(x, y)], loss, held_out=[(x[:1], y[:1])], recipe=recipe, fabric=fabric)
        grid = torch.linspace(-0.9, 0.9, 20)[:, None]
        drawn = [variational.draw(network, torch.Generator().manual_seed(t)) for t in range(100)]
        doubt.append(torch.stack([layers.apply(network, one, grid) for one in drawn]).std(0).mean().item())
    assert doubt[0] > 2 * doubt[1]


# ---- one by one --------------------------------------------------------------------------------------


def test_an_ensemble_is_its_members_recalibrated_together() -> None:
    model = learn(*material(60), settings("ensemble", epochs=3))
    images, _ = disks(30, 5)
    alone = [learn(*material(60), shared(model.settings, number)) for number in range(2)]
    assert model.facts["members"] == [one.settings.seed for one in alone]
    joined = replace(model, recalibration=alone[0].recalibration).predict(images, ids(30), draws=4)
    for number, one in enumerate(alone):
        mean = one.predict(images, ids(30), draws=60).mean("q")
        found = joined.fractions("q")[number::2].mean(0)
        assert np.abs(found - mean).max() < 0.12
    assert shared(model.settings).seed == model.settings.seed != shared(model.settings, 1).seed


def test_methods_share_networks_that_are_handed_to_them() -> None:
    asked = []

    def network(wanted: Learning) -> Model:
        asked.append(wanted.seed)
        return replace(trained("laplace"), settings=wanted)

    made = [learn(*material(120), settings(name), network=network) for name in ON_FROZEN]
    assert asked == [0, 0, 0]
    assert {one.settings.uncertainty for one in made} == set(ON_FROZEN)
    for one in made:
        again = trained(one.settings.uncertainty)
        assert again.fingerprint() == one.fingerprint()  # as if it had been trained alone
        assert again.recalibration == one.recalibration
    with pytest.raises(GreenpeaError, match=r"all draws of 'ensemble' .*: its members are one and"):
        learn(*material(120), settings("ensemble"), network=network)


def test_bootstrapped_heads_are_the_refitted_ones() -> None:
    """One Newton step, against fits to the weighted votes: logistic regression with votes for two answers."""
    torch.manual_seed(0)
    inputs = torch.randn(400, 2)
    votes = crowd(torch.sigmoid(inputs[:, 0]).numpy(), 1)
    layout = Layout(votes.tree, "multinomial")
    packed = heads.Targets(layout).pack(votes)
    targets = heads.Targets(layout)
    design = torch.cat([inputs, torch.ones(400, 1)], 1).double()

    def fitted(weights: torch.Tensor) -> torch.Tensor:
        head = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([head], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            found = targets.log_likelihood(design @ head, packed)["q"]
            value = -(weights * found).sum() + 0.5 * head.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        return head.detach()

    mean = fitted(torch.ones(400)).float()
    learned = Learned(layout, None, mean, inputs, packed, settings("bootstrap", seed=3))
    state = next(bootstrap.candidates(learned))
    weights = torch.empty(30, 400, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(3))
    exact = torch.stack([fitted(one) for one in weights])
    moved, found = exact - mean, state.heads - mean
    assert (found - moved).abs().max() < 0.15 * moved.abs().max()
    assert torch.corrcoef(torch.stack([moved.flatten(), found.double().flatten()]))[0, 1] > 0.99
    with pytest.raises(GreenpeaError, match="has 30 bootstrapped heads, and draw 31 is asked for"):
        bootstrap.draw(state, 30, torch.Generator())


def test_dropout_inside_silences_whole_channels_for_all_images_alike() -> None:
    model = trained("encoder-dropout")
    drawn = model.draw(3)
    masks = [one.tensors() for one in drawn.passes]
    assert all(torch.equal(masks[0][name], drawn.passes[0].tensors()[name]) for name in masks[0])
    values = torch.cat(list(masks[0].values()))
    assert values.unique().tolist() == pytest.approx([0.0, 1 / 0.8])
    assert any((masks[0][name] != masks[1][name]).any() for name in masks[0])
    assert not any("layers.1." in name for name in masks[0])  # the image's own channels


def test_zero_variance_names_the_missing_layer() -> None:
    plain = encoders.build("residual", 3, 24, 4)
    state = trained("variational").state
    random = [torch.Generator()]
    with pytest.raises(GreenpeaError, match="no variational layer; make one with"):
        method("variational").passes(plain, state, random)
    with pytest.raises(GreenpeaError, match=r"the encoder has no Dropped layer .* and learning\.encoder_dropout"):
        method("encoder-dropout").passes(plain, state, random)
    with pytest.raises(GreenpeaError, match=r"all draws of 'dropout' say the same .*: the Dropout before the head"):
        learn(*material(60), SHORT.model_copy(update={"uncertainty": "dropout", "dropout": 0.0, "epochs": 1}))
    nothing = {"uncertainty": "encoder-dropout", "encoder_dropout": 0.0, "epochs": 1}
    with pytest.raises(GreenpeaError, match="the encoder has no Dropped layer"):
        learn(*material(60), SHORT.model_copy(update=nothing))
    with pytest.raises(ValueError, match="needs encoder_dropout above 0"):
        settings("encoder-dropout", encoder_dropout=0.0)


@pytest.mark.parametrize("name", ["variational", "variational-head", "ensemble", "encoder-dropout"])
def test_a_frozen_encoder_cannot_be_taught_to_doubt(name: str) -> None:
    with pytest.raises(ValueError, match=r"learned together with the encoder, .* choose one of laplace, dropout, boot"):
        settings(name, freeze=True)


@pytest.mark.parametrize("prior", ["laplace", "mixture"])
def test_other_priors_learn_as_well(prior: str) -> None:
    chosen = settings("variational", prior=prior, epochs=2)
    model = learn(*material(60), chosen)
    assert np.isfinite(model.predict(disks(10, 1)[0], ids(10)).mean("q")).all()


# ---- bad conditions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(METHODS))
def test_all_votes_equal(name: str) -> None:
    """Everybody says the same of everything: a posterior that is sure, finite, and still one of draws."""
    images, votes, validation, preparation = material(60)
    same = replace(votes, counts={"q": np.tile([20, 0], (60, 1))})
    model = learn(images, same, validation, preparation, settings(name, epochs=3))
    posterior = model.predict(images, votes.subject_ids)
    assert posterior.mean("q")[:, 0].min() > 0.8
    assert np.isfinite(posterior.log_pmf("q", same)).all()


@pytest.mark.parametrize("name", list(METHODS))
def test_a_question_that_nobody_reached(name: str) -> None:
    from hands import galaxy_tree

    images, size = disks(60, 3)
    votes = Votes.empty(galaxy_tree(), [f"s{i}" for i in range(60)])
    votes.counts["smooth"][:, :2] = np.stack([np.round(20 * size), 20 - np.round(20 * size)], 1)
    votes.reached["smooth"][:] = 20
    model = learn(images, votes, np.arange(60) % 5 == 0, Preparation(size=24), settings(name, epochs=3))
    posterior = model.predict(images, votes.subject_ids)
    for slug in votes.tree.slugs:
        assert np.isfinite(posterior.pmf(slug, 5)).all()
    assert np.isfinite(information.of_tree(posterior, 5, np.random.default_rng(0)).value).all()


@pytest.mark.parametrize("name", list(METHODS))
def test_one_training_subject_is_too_few_and_said_so(name: str) -> None:
    images, votes, _, preparation = material(40)
    few = np.arange(40) > 0
    with pytest.raises(GreenpeaError, match=r"1 training and 39 validation subjects .* bring more votes"):
        learn(images, votes, few, preparation, settings(name))


@pytest.mark.parametrize("name", list(METHODS))
def test_a_loss_that_is_not_a_number_stops_the_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: heads.Targets, outputs: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        return outputs.sum() * torch.nan

    monkeypatch.setattr(heads.Targets, "loss", broken)
    with pytest.raises(GreenpeaError, match=r"learning.learning_rate"):
        learn(*material(60), settings(name, epochs=2))


def test_labels_and_measurements_say_which_methods_they_know() -> None:
    arrays, names = np.zeros((40, 3), np.float32), ["a", "b"] * 20
    with pytest.raises(
        GreenpeaError, match="uncertainty 'ensemble' is for votes; for labels and measurements there are"
    ):
        learn_labels(arrays, names, settings=settings("ensemble"))
