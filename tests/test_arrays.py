"""Learning labels and measurements from spectra, images, cubes and plain numbers; the losses against closed forms."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit

from greenpea.errors import GreenpeaError
from greenpea.labels import LabelLayout, doubt
from greenpea.learning import encoders
from greenpea.learning.array_checkpoint import load_arrays, save_arrays
from greenpea.learning.arrays import METHODS, ArrayModel, learn_labels, learn_measurements
from greenpea.learning.families import LabelLoss, MeasurementLoss, curvatures
from greenpea.learning.settings import Learning
from greenpea.learning.uncertainty import laplace
from greenpea.measurements import MeasurementLayout

FAST = Learning(epochs=25, precision="32-true", dropout=0.0, batch_size=64, learning_rate=1e-2)


# ---- losses ------------------------------------------------------------------------------------------


def test_the_loss_of_measurements_is_the_gaussian_log_likelihood() -> None:
    layout = MeasurementLayout(("a", "b"), ("1", "1"), np.zeros(2), np.ones(2))
    rng = np.random.default_rng(0)
    outputs, values = rng.normal(size=(5, 4)), rng.normal(size=(5, 2))
    values[0, 1] = np.nan
    each = stats.norm.logpdf(values, outputs[:, :2], np.exp(0.5 * outputs[:, 2:]))
    found = MeasurementLoss(layout)(torch.from_numpy(outputs), torch.from_numpy(values).float())
    assert found.item() == pytest.approx(-np.nansum(each) / 5, rel=1e-5)


def test_the_loss_of_noisy_logits_is_minus_ln_of_the_posteriors_probability() -> None:
    layout = LabelLayout(("a", "b", "c"), "each")
    outputs, codes = np.random.default_rng(1).normal(size=(6, 6)), np.array([0, 1, 2, 0, 1, 2])
    some = layout.posterior(outputs[:, None], np.arange(6).astype(str).astype(object))
    expected = -np.log(some.mean("label")[np.arange(6), codes]).mean()
    with torch.no_grad():  # where no gradient is wanted, the noise is that of the posterior
        found = LabelLoss(layout)(torch.from_numpy(outputs), torch.from_numpy(codes))
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_the_articles_loss_is_its_formula() -> None:
    layout = LabelLayout(("a", "b", "c"), "shared")
    outputs, codes = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
    loss = LabelLoss(layout)
    with torch.no_grad():
        logits, variance = outputs[:, :3], torch.nn.functional.softplus(outputs[:, 3:])
        noise = loss._noise(logits)
        plain = torch.nn.functional.cross_entropy(logits, codes, reduction="none")
        noisy = torch.stack(
            [
                torch.nn.functional.cross_entropy(logits + variance.sqrt() * one, codes, reduction="none")
                for one in noise
            ]
        )
        elu = torch.where(plain - noisy > 0, plain - noisy, (plain - noisy).exp() - 1)
        expected = plain * (-elu).mean(0) + plain + variance[:, 0].exp() - 1
        assert loss(outputs, codes).item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_subjects_without_a_label_weigh_nothing() -> None:
    layout = LabelLayout(("a", "b"), "none")
    outputs = torch.tensor([[1.0, 0.0], [5.0, -5.0]])
    assert LabelLoss(layout)(outputs, torch.tensor([0, -1])).item() == pytest.approx(np.log(1 + np.exp(-1)))
    assert LabelLoss(layout)(outputs, torch.tensor([-1, -1])).item() == 0


@pytest.mark.parametrize("noise", ["each", "shared", "none"])
def test_the_fisher_information_of_labels_is_the_expected_curvature(noise: str) -> None:
    layout = LabelLayout(("a", "b", "c"), noise)  # type: ignore[arg-type]
    loss = LabelLoss(layout)
    outputs = torch.randn(2, layout.outputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = loss.fisher(outputs, torch.tensor([0, 2]))
    for row in range(2):
        p = loss._log_p(outputs[row : row + 1]).exp()[0]
        # E −∂² ln p = Σ_c p_c (−∂² ln p_c)
        expected = -sum(
            p[c] * torch.autograd.functional.hessian(lambda x, c=c: loss._log_p(x[None])[0, c], outputs[row])
            for c in range(3)
        )
        torch.testing.assert_close(found[row], expected, atol=1e-8, rtol=1e-6)
    assert (loss.fisher(outputs, torch.tensor([0, -1]))[1] == 0).all()


# ---- truths that were planted ------------------------------------------------------------------------


def test_a_conjugate_toy_has_the_exact_posterior() -> None:
    """With the variance known, the Laplace approximation of a linear head is Bayesian linear regression."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(300, 2)), rng.normal(size=300)
    z = np.column_stack([x, np.ones(300)])
    layout = MeasurementLayout(("y",), ("1",), np.zeros(1), np.ones(1))
    mean = torch.zeros(3, 2)
    mean[-1, 1] = np.log(0.25)  # σ = ½
    (curvature,) = curvatures(
        MeasurementLoss(layout), mean, torch.from_numpy(x).float(), torch.from_numpy(y)[:, None].float()
    )
    precision = curvature[:3, :3].numpy() + np.eye(3)
    np.testing.assert_allclose(precision, z.T @ z / 0.25 + np.eye(3), rtol=1e-5)
    np.testing.assert_allclose(curvature[3:, 3:], z.T @ z / 2, rtol=1e-5)
    assert (curvature[:3, 3:] == 0).all()


@pytest.fixture(scope="module")
def noisy_line() -> tuple[np.ndarray, np.ndarray, ArrayModel]:
    rng = np.random.default_rng(3)
    x = rng.uniform(-2, 2, (1500, 1)).astype(np.float32)
    values = 7 + 3 * x + (0.3 + 0.5 * np.abs(x)) * rng.normal(size=x.shape)
    settings = FAST.model_copy(update={"epochs": 60, "batch_size": 128, "learning_rate": 3e-2, "patience": 60})
    return x, values, learn_measurements(x, values, ["height"], ["km"], hidden=(32,), settings=settings)


def test_heteroscedastic_regression_recovers_the_noise(
    noisy_line: tuple[np.ndarray, np.ndarray, ArrayModel],
) -> None:
    _, _, model = noisy_line
    grid = np.linspace(-1.8, 1.8, 13, dtype=np.float32)[:, None]
    found = model.predict(grid)
    sigma = np.sqrt(found.variance().within)[:, 0]
    truth = 0.3 + 0.5 * np.abs(grid[:, 0])
    assert np.abs(np.log(sigma / truth)).mean() < 0.15
    np.testing.assert_allclose(found.mean()[:, 0], 7 + 3 * grid[:, 0], atol=0.35)
    assert found.units == ("km",)
    assert (found.variance().between < found.variance().within).all()


def test_its_intervals_hold_what_they_should(noisy_line: tuple[np.ndarray, np.ndarray, ArrayModel]) -> None:
    _, _, model = noisy_line
    rng = np.random.default_rng(4)
    x = rng.uniform(-2, 2, (2000, 1)).astype(np.float32)
    values = 7 + 3 * x + (0.3 + 0.5 * np.abs(x)) * rng.normal(size=x.shape)
    low, high = model.predict(x).interval(0.9)
    assert ((low < values) & (values < high)).mean() == pytest.approx(0.9, abs=0.04)


def test_far_from_the_training_arrays_there_is_more_doubt_about_weights(
    noisy_line: tuple[np.ndarray, np.ndarray, ArrayModel],
) -> None:
    _, _, model = noisy_line
    near, far = model.predict(np.array([[0.5], [12.0]], np.float32)).variance().between[:, 0]
    assert far > 10 * near
    distance = model.predict(np.array([[0.5], [12.0]], np.float32)).distance
    assert distance is not None
    assert distance[1] > 3 * distance[0]


def test_a_draw_is_the_same_whatever_it_is_asked_about(noisy_line: tuple[np.ndarray, np.ndarray, ArrayModel]) -> None:
    x, _, model = noisy_line
    whole, part = model.predict(x[:200]), model.predict(x[100:130])
    np.testing.assert_array_equal(whole.centres[:, 100:130], part.centres)
    other = model.predict(x[:5], seed=1)
    assert not np.array_equal(other.centres, whole.centres[:, :5])


@pytest.fixture(scope="module")
def coin() -> tuple[np.ndarray, np.ndarray]:
    """Numbers z and labels that are "b" with probability σ(2 z₀)."""
    rng = np.random.default_rng(5)
    z = rng.normal(size=(900, 2)).astype(np.float32)
    return z, np.where(rng.random(900) < expit(2 * z[:, 0]), "b", "a")


@pytest.mark.parametrize("noise", ["each", "shared", "none"])
def test_learned_labels_are_calibrated(noise: str, coin: tuple[np.ndarray, np.ndarray]) -> None:
    z, labels = coin
    model = learn_labels(z, labels, noise=noise, settings=FAST)  # type: ignore[arg-type]
    grid = np.column_stack([np.linspace(-2, 2, 9), np.zeros(9)]).astype(np.float32)
    found = model.predict(grid, [f"g{i}" for i in range(9)])
    np.testing.assert_allclose(found.mean("label")[:, 1], expit(2 * grid[:, 0]), atol=0.09)
    assert found.subject_ids[0] == "g0"


@pytest.mark.parametrize("method", METHODS)
def test_draws_of_every_method_disagree_and_are_read_back(method: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    spectra = rng.normal(size=(70, 1, 24)).astype(np.float32)
    labels = np.where(spectra[:, 0, :8].mean(axis=1) > 0, "a", "b")
    settings = FAST.model_copy(update={"uncertainty": method, "dropout": 0.2, "epochs": 2, "width": 4})
    model = learn_labels(spectra, labels, hidden=(6,), settings=settings)
    found = model.predict(spectra[:20], draws=6)
    assert found.draws == 6
    assert (doubt(found).epistemic > 0).mean() > 0.9
    part = model.predict(spectra[15:20], draws=6)
    np.testing.assert_allclose(part.parameters["label"], found.parameters["label"][:, 15:], rtol=1e-4)
    again = load_arrays(save_arrays(model, tmp_path / "model"))
    np.testing.assert_array_equal(again.predict(spectra[:20], draws=6).parameters["label"], found.parameters["label"])


def test_draws_that_are_all_the_same_are_an_error(coin: tuple[np.ndarray, np.ndarray]) -> None:
    z, labels = coin
    settings = FAST.model_copy(update={"epochs": 1})
    model = learn_labels(z[:100], labels[:100], settings=settings)
    with pytest.raises(GreenpeaError, match="would be the same"):
        replace(model, state=None).predict(z[:3])
    with pytest.raises(GreenpeaError, match="is for votes"):
        learn_labels(z[:100], labels[:100], settings=settings.model_copy(update={"uncertainty": "ensemble"}))


def test_laplaces_doubt_falls_as_labels_grow(
    coin: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    z, labels = coin
    monkeypatch.setattr(laplace, "PRECISIONS", (1.0,))  # with 12 validation labels the choice of a prior is chance
    few, many = (
        doubt(learn_labels(z[:n], labels[:n], settings=FAST).predict(z[:200])).epistemic.mean() for n in (80, 900)
    )
    assert many < few / 3


# ---- arrays of any dimension -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 64), (2, 16, 16), (1, 8, 8, 8)])
def test_spectra_images_and_cubes_are_learned(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(6)
    arrays = rng.normal(0, 1, (150, *shape)).astype(np.float32)
    bright = rng.random(150) < 0.5
    arrays[bright] += 1.5
    settings = FAST.model_copy(update={"epochs": 12, "width": 4, "batch_size": 32, "orientation": "upright"})
    labels = np.where(bright, "bright", "dark")
    model = learn_labels(arrays[:110], labels[:110], settings=settings)
    found = model.predict(arrays[110:]).mean("label").argmax(axis=1)
    assert (np.array(["bright", "dark"])[found] == labels[110:]).mean() >= 0.9


@pytest.mark.parametrize(("dimensions", "size"), [(1, 5), (1, 300), (1, 2000), (2, 33), (3, 9)])
def test_every_pixel_reaches_the_embedding(dimensions: int, size: int) -> None:
    torch.manual_seed(0)
    network = encoders.ResidualEncoder(2, size, 4, dimensions=dimensions).eval()
    arrays = torch.randn(1, 2, *[size] * dimensions, requires_grad=True)
    embedding = network(arrays)
    assert embedding.shape == (1, network.embedding_size)
    embedding.square().sum().backward()
    assert arrays.grad is not None
    assert (arrays.grad != 0).float().mean() > 0.98


def test_a_frozen_encoder_stays_as_it_is(coin: tuple[np.ndarray, np.ndarray]) -> None:
    z, labels = coin
    first = learn_labels(z[:200], labels[:200], settings=FAST)
    before = {name: value.clone() for name, value in first.encoder.state_dict().items()}
    settings = FAST.model_copy(update={"freeze": True})
    second = learn_labels(z[200:], labels[200:], hidden=(8,), start=first.encoder, settings=settings)
    assert second.encoder is first.encoder
    for name, value in first.encoder.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    with pytest.raises(GreenpeaError, match="give it as `start`"):
        learn_labels(z, labels, settings=settings)


def test_several_targets_with_gaps(coin: tuple[np.ndarray, np.ndarray]) -> None:
    z, _ = coin
    values = np.column_stack([100 * z[:, 0], z[:, 1] - 5]).astype(float)
    values[::2, 1] = np.nan
    settings = FAST.model_copy(update={"epochs": 25})
    model = learn_measurements(z, values, ["mass", "size"], ["kg", "m"], settings=settings)
    found = model.predict(z[:100])
    truth = np.column_stack([100 * z[:100, 0], z[:100, 1] - 5])
    assert (np.abs(found.mean() - truth) < [15, 0.2]).mean() > 0.9


# ---- what people bring ---------------------------------------------------------------------------------


def test_what_cannot_be_learned_from_is_refused_with_a_reason() -> None:
    z, labels = np.zeros((40, 2), np.float32), np.array(["a", "b"] * 20)
    z[7, 1] = np.nan
    with pytest.raises(GreenpeaError, match="row 7"):
        learn_labels(z, labels, settings=FAST)
    with pytest.raises(GreenpeaError, match="for 40 subjects"):
        learn_labels(z[:5], labels, settings=FAST)
    with pytest.raises(GreenpeaError, match="are needed"):
        learn_labels(np.zeros((40, 2), np.float32), np.array(["a", "b"] + [""] * 38), settings=FAST)
    with pytest.raises(GreenpeaError, match="columns"):
        learn_measurements(z, np.zeros((40, 2)), ["mass"], ["kg"], settings=FAST)
    with pytest.raises(GreenpeaError, match="takes 1, 2 or 3"):
        encoders.build("residual", 1, 4, 4, dimensions=4)
    with pytest.raises(GreenpeaError, match="takes images"):
        encoders.build("timm:resnet18", 1, 4, 4, dimensions=1)


def test_the_fingerprint_tells_models_apart(coin: tuple[np.ndarray, np.ndarray]) -> None:
    z, labels = coin
    settings = FAST.model_copy(update={"epochs": 1})
    model = learn_labels(z[:100], labels[:100], settings=settings)
    again = learn_labels(z[:100], labels[:100], settings=settings)
    assert model.fingerprint() == again.fingerprint()
    assert replace(model, state=None).fingerprint() != model.fingerprint()


def test_the_examples_of_the_documentation_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parent.parent / "docs" / "labels-and-measurements.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile("\n".join(examples), "docs/labels-and-measurements.md", "exec"), {})
    assert (tmp_path / "masses" / "model.safetensors").is_file()


# ---- on disk -------------------------------------------------------------------------------------------


def test_measurements_of_spectra_read_back_say_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    spectra, values = rng.normal(size=(60, 2, 20)).astype(np.float32), rng.normal(size=(60, 2))
    settings = FAST.model_copy(update={"epochs": 1, "width": 4})
    model = learn_measurements(spectra, values, ["z", "age"], ["1", "Gyr"], settings=settings)
    folder = save_arrays(model, tmp_path / "model")
    again = load_arrays(folder)
    np.testing.assert_array_equal(again.predict(spectra[:5]).centres, model.predict(spectra[:5]).centres)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(GreenpeaError, match="not those that were saved"):
        load_arrays(folder)
    with pytest.raises(GreenpeaError, match="has no model"):
        load_arrays(tmp_path)


def test_an_encoder_of_ones_own_is_given_again(coin: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    class Own(torch.nn.Module):
        embedding_size = 3

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 3)

        def forward(self, numbers: torch.Tensor) -> torch.Tensor:
            return self.layer(numbers)

    z, labels = coin
    model = learn_labels(z[:100], labels[:100], start=Own(), settings=FAST.model_copy(update={"epochs": 1}))
    folder = save_arrays(model, tmp_path / "model")
    with pytest.raises(GreenpeaError, match="give it to load_arrays"):
        load_arrays(folder)
    assert load_arrays(folder, Own()).fingerprint() == model.fingerprint()
