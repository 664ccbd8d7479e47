"""Variational layers against closed forms, exact posteriors and their own draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Laplace, Normal, kl_divergence

from greenpea.errors import GreenpeaError
from greenpea.learning import training
from greenpea.learning.settings import Recipe
from greenpea.learning.uncertainty import layers, variational

NOISE, WIDTH = 0.5, 0.7  # standard deviations of the observations and of the prior


def seeded(t: int) -> torch.Generator:
    return torch.Generator().manual_seed(t)


def spread(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight a mean and a width of its own."""
    with torch.no_grad():
        for _, layer in variational.layers(network):
            layer.mean.copy_(torch.randn(len(layer.mean), generator=seeded(seed)))
            layer.log_sd.copy_(torch.randn(len(layer.mean), generator=seeded(seed + 1)) * 0.5 - 1)
    return network


def several() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))


# ---- the KL ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "peer"),
    [(variational.Gaussian(0.7), Normal(0.0, 0.7)), (variational.Laplace(0.4), Laplace(torch.tensor(0.0), 0.4))],
)
def test_kl_is_its_closed_form_summed_over_every_layer(
    prior: variational.Prior, peer: torch.distributions.Distribution
) -> None:
    network = spread(variational.of(several(), prior))
    expected, numbers = 0.0, 0
    for _, layer in variational.layers(network):
        q = Normal(layer.mean.double(), layer.log_sd.double().exp())
        expected += kl_divergence(q, peer).sum().item()
        numbers += len(layer.mean)
    assert numbers == 3 * 2 * 9 + 3 + 2 * 12 + 2
    assert variational.kl(network).item() == pytest.approx(expected, rel=1e-5)


def test_a_mixture_of_one_width_costs_what_its_gaussian_does() -> None:
    network = spread(variational.of(nn.Linear(40, 30), variational.ScaleMixture(0.3, 0.8, 0.8)))
    exact = spread(variational.of(nn.Linear(40, 30), variational.Gaussian(0.8)))
    torch.manual_seed(0)
    found = torch.stack([variational.kl(network).detach() for _ in range(200)])
    error = float(found.std()) / math.sqrt(200)
    assert abs(float(found.mean()) - variational.kl(exact).item()) < 4 * error
    assert error > 0


def test_a_mixtures_kl_is_of_the_weights_that_the_likelihood_saw() -> None:
    network = spread(variational.of(nn.Linear(4, 1, bias=False), variational.ScaleMixture())).train()
    layer = variational.layers(network)[0][1]
    outputs = network(torch.eye(4))
    drawn = outputs[:, 0].detach()
    expected = layer.prior.kl(layer.mean, layer.log_sd, drawn)
    assert variational.kl(network).item() == pytest.approx(expected.item(), rel=1e-5)


def test_widths_in_units_of_the_inputs() -> None:
    network = variational.of(several(), variational.Gaussian(2.0), start=0.1, scaled=True)
    first, last = (layer for _, layer in variational.layers(network))
    assert first.prior.sd == pytest.approx(2 / math.sqrt(18))
    assert last.prior.sd == pytest.approx(2 / math.sqrt(12))
    assert last.log_sd.exp()[0].item() == pytest.approx(0.1 / math.sqrt(12))


# ---- layers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 2), (6,)),
        (nn.Conv1d(2, 2, 3), (2, 3)),
        (nn.Conv2d(2, 2, 3, bias=False), (2, 3, 3)),
        (nn.Conv3d(1, 2, 2), (1, 2, 2, 2)),
    ],
)
def test_noise_of_outputs_is_that_of_drawn_weights(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """Where a kernel is used in one place only, both have the same distribution."""
    network = spread(variational.of(layer, variational.Gaussian()))
    one = torch.randn(1, *shape, generator=seeded(5))
    torch.manual_seed(1)
    with torch.no_grad():
        trained = network.train()(one.expand(20_000, *shape)).flatten(1)
        drawn = torch.cat([layers.apply(network, variational.draw(network, seeded(t)), one) for t in range(3000)])
    drawn = drawn.flatten(1)
    scale = trained.std(0)
    assert ((trained.mean(0) - drawn.mean(0)).abs() < 5 * scale / math.sqrt(3000)).all()
    torch.testing.assert_close(trained.std(0), drawn.std(0), rtol=0.07, atol=0)


def test_draws_are_one_set_of_weights_and_hang_on_the_generator_alone() -> None:
    network = spread(variational.of(several(), variational.Gaussian())).eval()
    images = torch.randn(6, 2, 4, 4, generator=seeded(3))
    first, again, other = (variational.draw(network, seeded(t)) for t in (0, 0, 1))
    assert set(first) == {"0.mean", "3.mean"}
    assert all(torch.equal(first[name], again[name]) for name in first)
    whole = layers.apply(network, first, images)
    torch.testing.assert_close(torch.cat([layers.apply(network, first, images[i : i + 1]) for i in range(6)]), whole)
    assert not torch.allclose(layers.apply(network, other, images), whole)
    torch.testing.assert_close(network(images), layers.plain(network).eval()(images))  # in the middle, the means


def test_plain_is_where_it_came_from() -> None:
    network = several()
    back = layers.plain(variational.of(network, variational.Gaussian()))
    assert [type(module) for module in back] == [type(module) for module in network]
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), back.state_dict().values(), strict=True)
    )


def test_a_network_without_variational_layers_is_named() -> None:
    for use in (variational.kl, lambda network: variational.draw(network, seeded(0)), variational.signal_to_noise):
        with pytest.raises(GreenpeaError, match=r"no variational layer; make one with variational\.of"):
            use(nn.Linear(2, 2))


# ---- exact posteriors --------------------------------------------------------------------------------


class Whole:
    """All data in one batch."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return 1

    def __iter__(self):  # type: ignore[no-untyped-def]
        yield self.x, self.y


def gaussian_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * ((outputs - targets) / NOISE).square().sum(1).mean()


def regressed(count: int, temperature: float = 1.0) -> tuple[variational.Layer, Tensor, Tensor]:
    """Linear regression on orthogonal inputs, whose posterior is a product of Gaussians; and that posterior."""
    x = torch.linalg.qr(torch.randn(count, 3, generator=seeded(count)))[0] * math.sqrt(count)
    y = x @ torch.tensor([[1.0], [-0.5], [0.0]]) + NOISE * torch.randn(count, 1, generator=seeded(count + 1))
    torch.manual_seed(0)
    network = variational.of(nn.Linear(3, 1, bias=False), variational.Gaussian(WIDTH))
    recipe = Recipe(epochs=700, learning_rate=0.03, patience=700, average=0.98, weight_decay=0.05)
    data = Whole(x, y)
    loss = variational.objective(network, gaussian_loss, count, temperature)
    fabric = training.make_fabric("32-true", accelerator="cpu")
    training.fit(network, data, loss, held_out=data, recipe=recipe, fabric=fabric)
    precision = count / NOISE**2 / temperature + 1 / WIDTH**2
    mean = (x.T @ y)[:, 0] / NOISE**2 / temperature / precision
    return variational.layers(network)[0][1], mean, torch.full((3,), precision**-0.5)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_gaussian_linear_regression_has_its_exact_posterior(temperature: float) -> None:
    layer, mean, sd = regressed(12, temperature=temperature)
    torch.testing.assert_close(layer.mean.detach(), mean, atol=0.03, rtol=0.03)
    torch.testing.assert_close(layer.log_sd.exp().detach(), sd, atol=0, rtol=0.06)


def test_doubt_falls_as_one_over_the_root_of_the_data() -> None:
    few, many = (regressed(count)[0].log_sd.exp().mean().item() for count in (12, 1200))
    assert few / many == pytest.approx(10, rel=0.15)


def test_what_is_held_out_is_judged_without_the_prior() -> None:
    network = variational.of(nn.Linear(2, 1), variational.Gaussian())
    loss = variational.objective(network, gaussian_loss, 10, 0.5)
    outputs, targets = torch.zeros(4, 1), torch.ones(4, 1)
    expected = gaussian_loss(outputs, targets).item()
    assert loss(outputs, targets).item() == pytest.approx(expected + 0.05 * variational.kl(network).item(), rel=1e-5)
    with torch.inference_mode():
        assert loss(outputs, targets).item() == pytest.approx(expected)


# ---- pruning -----------------------------------------------------------------------------------------


def test_pruning_takes_the_weights_of_least_signal_to_noise_and_keeps_biases() -> None:
    network = spread(variational.of(several(), variational.Gaussian()))
    ratio = variational.signal_to_noise(network)
    pruned = variational.prune(network, 0.6)
    left = variational.signal_to_noise(pruned)
    gone = round(0.6 * len(ratio))
    assert (left == 0).sum() == gone
    assert left[left > 0].min() >= ratio.sort().values[gone - 1]
    assert torch.equal(ratio, variational.signal_to_noise(network))  # the network itself is as it was
    drawn = variational.draw(pruned, seeded(0))
    sizes = [layer.weights for _, layer in variational.layers(pruned)]
    for (name, values), size in zip(drawn.items(), sizes, strict=True):
        assert (values[:size].abs() < 1e-15).sum() == (dict(variational.layers(pruned))[name[0]].mean[:size] == 0).sum()
        assert (values[size:].abs() > 1e-9).all()


def test_random_masks_prune_as_many_and_others_each_time() -> None:
    network = spread(variational.of(several(), variational.Gaussian()))
    masks = [variational.signal_to_noise(variational.prune(network, 0.3, seeded(t))) == 0 for t in range(3)]
    assert {int(mask.sum()) for mask in masks} == {round(0.3 * len(masks[0]))}
    assert not torch.equal(masks[0], masks[1])
    again = variational.signal_to_noise(variational.prune(network, 0.3, seeded(0))) == 0
    assert torch.equal(masks[0], again)
    for share in (-0.1, 1.0):
        with pytest.raises(GreenpeaError, match="choose from 0 to below 1"):
            variational.prune(network, share)
    with pytest.raises(GreenpeaError, match="make it by signal_to_noise"):
        variational.masked(network, torch.zeros(200, dtype=torch.bool))
