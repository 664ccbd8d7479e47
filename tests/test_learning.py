"""Encoders, training, doubt, draws and checkpoints, on data small enough to be trained on in seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from greenpea import information, outputs
from greenpea.calibration import Recalibration
from greenpea.errors import GreenpeaError
from greenpea.images import Preparation
from greenpea.learning import checkpoint, encoders, training
from greenpea.learning.batches import ImageBatches, PlainBatches, augment, to_unit
from greenpea.learning.model import Model, learn
from greenpea.learning.orientation import probe
from greenpea.learning.prediction import embed
from greenpea.learning.settings import ON_FROZEN, Augmentation, Learning, Recipe
from greenpea.learning.uncertainty import method
from greenpea.votes import Votes
from hands import galaxy_tree, one_question

FAST = Learning(epochs=12, width=4, draws=8, orientation="any", batch_size=32, precision="32-true")


def disks(count: int, seed: int, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Images of a blob whose size is what volunteers are asked about; and that size, in [0, 1]."""
    rng = np.random.default_rng(seed)
    size = rng.random(count)
    y, x = np.mgrid[-1:1:24j, -1:1:24j]
    blobs = np.exp(-(x**2 + y**2) / (0.05 + 0.5 * size[:, None, None]) ** 2)
    images = blobs[:, None] * 200 + rng.normal(20, 5, (count, channels, 24, 24))
    return images.clip(0, 255).astype(np.uint8), size


def crowd(size: np.ndarray, seed: int, n: int = 20) -> Votes:
    """Volunteers who say "large" as often as the blob is large."""
    large = np.random.default_rng(seed).binomial(n, 0.1 + 0.8 * size)
    ids = np.array([f"s{seed}-{i}" for i in range(len(size))], dtype=object)
    return Votes(one_question(2), ids, {"q": np.stack([large, n - large], 1)}, {"q": np.full(len(size), n)})


@pytest.fixture(scope="module")
def trained() -> Model:
    images, size = disks(300, 0)
    return learn(images, crowd(size, 0), np.arange(300) % 5 == 0, Preparation(size=24), FAST)


# ---- encoders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "size"), [(1, 24), (3, 64), (5, 33)])
def test_residual_encoders_take_any_channels_and_sizes(channels: int, size: int) -> None:
    encoder = encoders.build("residual", channels, size, 4).eval()
    embedding = encoder(torch.rand(2, channels, size, size))
    assert embedding.shape == (2, encoder.embedding_size)
    assert torch.isfinite(embedding).all()


def test_encoders_are_modules_only_the_sum_included() -> None:
    """Explanation hooks modules: every addition in the network must be seen by a hook."""
    encoder = encoders.build("residual", 3, 24, 4).eval()
    seen: list[torch.Tensor] = []
    for module in encoder.modules():
        if isinstance(module, encoders.Sum):
            module.register_forward_hook(lambda _module, inputs, output: seen.append(output - inputs[0] - inputs[1]))
    encoder(torch.rand(1, 3, 24, 24))
    blocks = sum(isinstance(module, encoders.ResidualBlock) for module in encoder.modules())
    assert len(seen) == blocks == 4
    assert all((difference == 0).all() for difference in seen)


def test_unknown_encoders_are_named_with_the_remedy() -> None:
    with pytest.raises(GreenpeaError, match="no encoder 'resnet18': use 'residual', or 'timm:NAME'"):
        encoders.build("resnet18", 3, 64, 8)


@pytest.fixture(scope="module")
def timm():  # type: ignore[no-untyped-def]
    """timm imports torchvision, whose CUDA build fails beside a CPU torch unless its operators are declared."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                       "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"):  # fmt: skip
            library.define(schema)
    except ImportError:
        pass
    return pytest.importorskip("timm")


def test_timm_encoders(timm) -> None:  # type: ignore[no-untyped-def]
    encoder = encoders.build("timm:resnet10t", 5, 64, 8).eval()
    assert encoder(torch.rand(2, 5, 64, 64)).shape == (2, encoder.embedding_size)
    small = encoders.build("timm:mobilenetv3_small_050", 3, 32, 8).eval()  # its num_features is not its output
    assert small(torch.rand(2, 3, 32, 32)).shape == (2, 128)
    assert encoders.build("timm:resnet10t.c3_in1k", 3, 32, 8).embedding_size == 128  # a tag of published weights
    with pytest.raises(GreenpeaError, match="to what it was made for"):
        encoders.build("timm:vit_tiny_patch16_224", 3, 64, 8)
    with pytest.raises(GreenpeaError, match=r"timm has no model 'resnet18x' \(did you mean"):
        encoders.build("timm:resnet18x", 3, 64, 8)


def test_published_encoders_come_with_their_weights(timm, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from timm.models import save_for_hf

    published = timm.create_model("test_resnet", num_classes=7)
    save_for_hf(published, tmp_path / "repository é", safe_serialization=True)
    name = f"hf-hub:{tmp_path / 'repository é'}"
    assert Learning(encoder=name).published
    encoder = encoders.build(name, 3, 64, 8, pretrained=True)
    theirs = published.state_dict()
    ours = encoder.network.network.state_dict()
    assert ours
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    again = encoders.build(name, 3, 64, 8)  # as a checkpoint builds it, before it puts its own weights in
    again.load_state_dict(encoder.state_dict())
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(again.eval()(images), encoder.eval()(images))
    assert encoders.build(name, 5, 64, 8, pretrained=True).eval()(torch.rand(1, 5, 64, 64)).shape[1] <= 128


def test_published_encoders_that_cannot_be_had(timm, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(GreenpeaError, match=r"cannot be had .* write hf-hub:FOLDER"):
        encoders.build(f"hf-hub:{tmp_path}", 3, 64, 8, pretrained=True)


# ---- batches -----------------------------------------------------------------------------------------


def test_augmentation_moves_the_image_and_keeps_its_light() -> None:
    image = torch.zeros(64, 1, 33, 33)
    image[:, :, 14:19, 14:19] = 1.0
    moved = augment(image, Augmentation(zoom=0.0, shift=0.1), torch.Generator().manual_seed(0))
    assert (moved - image).abs().amax((1, 2, 3)).min() > 0.05
    torch.testing.assert_close(moved.sum((1, 2, 3)), torch.full((64,), 25.0), atol=1.5, rtol=0)


def test_upright_images_are_never_turned() -> None:
    image = torch.zeros(32, 1, 17, 17)
    image[:, :, :4] = 1.0  # a bright sky
    how = Augmentation(orientation="upright", zoom=0.0, shift=0.0)
    torch.testing.assert_close(augment(image, how, torch.Generator().manual_seed(0)), image, atol=1e-4, rtol=0)


def test_handedness_survives_where_mirroring_is_forbidden() -> None:
    image = torch.zeros(16, 1, 16, 16)
    image[:, :, :8, :8] = 1.0
    how = Augmentation(orientation="upright", mirror=False, zoom=0.0, shift=0.0)
    torch.testing.assert_close(augment(image, how, torch.Generator().manual_seed(1)), image, atol=1e-4, rtol=0)


def test_every_row_comes_once_an_epoch_and_the_seed_decides_the_order() -> None:
    images, _ = disks(50, 3)
    targets = torch.arange(100).float()[:, None]
    rows = np.arange(0, 50, 2)
    first = [ImageBatches(images, rows, targets, 5, Augmentation(), seed=1) for _ in range(2)]
    orders = [torch.cat([y for _, y in batches])[:, 0].tolist() for batches in first]
    assert orders[0] == orders[1] != sorted(orders[0])
    assert sorted(orders[0]) == rows.tolist()
    assert [y for _, ys in PlainBatches(images, rows, targets, 4) for y in ys[:, 0].tolist()] == rows.tolist()


def test_the_probe_knows_photographs_from_the_sky() -> None:
    rng = np.random.default_rng(0)
    sky, _ = disks(400, 5)
    ground = rng.normal(100, 30, (400, 3, 24, 24)) + np.linspace(40, -40, 24)[:, None]
    every = np.arange(400)
    assert probe(sky, every, rng).orientation == "any"
    found = probe(ground.clip(0, 255).astype(np.uint8), every, rng)
    assert found.orientation == "upright"
    assert found.accuracy > 0.9
    assert probe(sky, np.arange(10), rng).orientation == "any"


# ---- fit ---------------------------------------------------------------------------------------------


class _Line:
    """Batches of y = 2x + 1, of which `fit` need know nothing."""

    def __init__(self, count: int, noise: float) -> None:
        generator = torch.Generator().manual_seed(count)
        self.x = torch.randn(count, 1, generator=generator)
        self.y = 2 * self.x + 1 + noise * torch.randn(count, 1, generator=generator)

    def __len__(self) -> int:
        return 4

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(zip(self.x.chunk(4), self.y.chunk(4), strict=True))


def test_fit_learns_any_module_with_any_loss() -> None:
    recipe = Recipe(epochs=150, learning_rate=0.1, weight_decay=0.0, patience=150, average=0.5)
    fabric = training.make_fabric("32-true", accelerator="cpu")
    line, history = training.fit(
        nn.Linear(1, 1),
        _Line(64, 0.01),
        nn.functional.mse_loss,
        held_out=_Line(32, 0.01),
        recipe=recipe,
        fabric=fabric,
    )
    assert line.weight.item() == pytest.approx(2, abs=0.02)
    assert line.bias.item() == pytest.approx(1, abs=0.02)
    assert history.held_out[history.best_epoch] == min(history.held_out) < 1e-3


def test_fit_stops_early_and_returns_the_best() -> None:
    recipe = Recipe(epochs=200, learning_rate=0.1, patience=5, average=0.0)
    fabric = training.make_fabric("32-true", accelerator="cpu")
    wrong = _Line(32, 0.01)
    wrong.y = -wrong.y  # held-out data that training makes worse and worse
    best, history = training.fit(
        nn.Linear(1, 1), _Line(64, 0.01), nn.functional.mse_loss, held_out=wrong, recipe=recipe, fabric=fabric
    )
    assert len(history.train) == history.best_epoch + 6 < 200
    assert training.mean_loss(best, wrong, nn.functional.mse_loss, fabric) == pytest.approx(min(history.held_out))


def test_schedule_warms_up_and_falls_to_nothing() -> None:
    factor = training.schedule(Recipe(warm_up=0.1), 100)
    values = [factor(step) for step in range(100)]
    assert values[0] == pytest.approx(0.1)
    assert max(values) == pytest.approx(1.0)
    assert values[-1] < 0.001
    assert np.all(np.diff(values[10:]) <= 0)


# ---- learning from votes -----------------------------------------------------------------------------


def test_learning_beats_not_looking_and_tells_large_from_small(trained: Model) -> None:
    from greenpea.calibration import constant, evaluate

    images, size = disks(200, 9)
    votes = crowd(size, 9)
    posterior = trained.predict(images, votes.subject_ids)
    judged = evaluate(posterior, votes, constant(votes, votes.subject_ids), np.random.default_rng(0))
    assert judged.overall.excess.high < judged.overall.constant_excess / 3
    assert np.corrcoef(posterior.mean("q")[:, 0], size)[0, 1] > 0.95


def test_the_same_seed_learns_the_same_model() -> None:
    images, size = disks(80, 1)
    votes = crowd(size, 1)
    short = FAST.model_copy(update={"epochs": 2})
    first, second = (learn(images, votes, np.arange(80) % 4 == 0, Preparation(size=24), short) for _ in range(2))
    assert first.fingerprint() == second.fingerprint()


def test_too_few_votes_are_refused() -> None:
    images, _ = disks(30, 1)
    votes = Votes.empty(one_question(2), [f"s{i}" for i in range(30)])
    with pytest.raises(GreenpeaError, match="0 training and 0 validation subjects have votes"):
        learn(images, votes, np.arange(30) % 4 == 0, Preparation(size=24), FAST)


def test_draws_depend_on_nothing_but_model_seed_and_number(trained: Model) -> None:
    eight, four = trained.draw(8).heads, trained.draw(4).heads
    assert torch.equal(eight[:4], four)
    assert torch.equal(eight, trained.draw(8).heads)
    assert not torch.equal(eight, trained.draw(8, seed=1).heads)
    assert not torch.equal(eight[0], eight[1])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("batch", [1, 7, 64, 100])
def test_workers_with_other_batch_sizes_give_identical_draws(batch: int, precision: str, trained: Model) -> None:
    trained = replace(trained, settings=trained.settings.model_copy(update={"precision": precision}))
    images, _ = disks(130, 4)
    ids = np.array([f"s{i}" for i in range(130)], dtype=object)
    whole = trained.predict(images, ids)
    for at in range(0, 130, batch):
        part = trained.predict(images[at : at + batch], ids[at : at + batch])
        np.testing.assert_array_equal(part.parameters["q"], whole.parameters["q"][:, at : at + batch])
        np.testing.assert_array_equal(part.distance, whole.distance[at : at + batch])  # type: ignore[index]


def test_one_encoder_pass_serves_all_draws(trained: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = disks(64, 4)
    calls = []
    monkeypatch.setattr(trained.encoder, "forward", lambda x, f=trained.encoder.forward: calls.append(len(x)) or f(x))
    trained.predict(images, np.arange(64).astype(str), draws=50)
    assert calls == [64]


def test_draws_in_one_product_are_the_draws_one_by_one(trained: Model) -> None:
    embeddings = torch.randn(10, trained.encoder.embedding_size)
    weights = trained.draw(5).heads
    together = outputs.apply(weights.numpy(), embeddings.numpy())
    for t in range(5):
        alone = embeddings @ weights[t, :-1] + weights[t, -1]
        np.testing.assert_allclose(together[:, t], alone.numpy(), atol=1e-4, rtol=1e-4)


def _with_method(name: str, subjects: int, first: Model | None) -> Model:
    images, size = disks(subjects, 6)
    settings = FAST.model_copy(update={"uncertainty": name, "freeze": first is not None, "recalibrate": False})
    return learn(images, crowd(size, 6), np.arange(subjects) % 5 == 0, Preparation(size=24), settings, first)


def test_doubt_falls_with_votes_for_laplace_and_bootstrap_and_not_for_dropout(trained: Model) -> None:
    images, _ = disks(100, 8)
    ids = np.arange(100).astype(str).astype(object)
    fell = {}
    for name in ON_FROZEN:
        few, many = (_with_method(name, subjects, trained) for subjects in (60, 900))
        values = [
            information.of_tree(model.predict(images, ids), 5, np.random.default_rng(0)).value.mean()
            for model in (few, many)
        ]
        fell[name] = values[0] / values[1]
    assert fell["laplace"] > 3
    assert fell["bootstrap"] > 3
    assert fell["dropout"] < 2


def test_a_strange_image_is_far_from_the_training_subjects(trained: Model) -> None:
    usual, _ = disks(50, 7)
    strange = np.random.default_rng(0).integers(0, 256, (50, 3, 24, 24)).astype(np.uint8)
    ids = np.arange(50).astype(str)
    near, far = trained.predict(usual, ids).distance, trained.predict(strange, ids).distance
    assert near is not None
    assert far is not None
    assert np.median(near) == pytest.approx(1, abs=0.3)
    assert np.median(far) > 3


def test_distance_is_mahalanobis_in_validation_units() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(5000, 3)) * [1.0, 2.0, 3.0]
    geometry = outputs.Geometry.of(points, points)
    assert np.median(geometry.distance(points)) == pytest.approx(1, abs=1e-6)
    assert np.diff(geometry.distance(np.array([[0.0, 0.0, 9.0], [9.0, 0.0, 0.0]]))) > 0


def test_unknown_methods_are_named() -> None:
    with pytest.raises(GreenpeaError, match=r"no uncertainty method 'laplac' \(did you mean 'laplace'"):
        method("laplac")


# ---- other trees, checkpoints ------------------------------------------------------------------------


def test_fine_tuning_keeps_the_encoder_and_changes_the_tree(trained: Model) -> None:
    images, size = disks(120, 2)
    votes = crowd(size, 2)
    other = replace(votes, tree=one_question(3), counts={"q": np.hstack([votes.counts["q"], np.zeros((120, 1), int)])})
    frozen = FAST.model_copy(update={"freeze": True})
    model = learn(images, other, np.arange(120) % 4 == 0, Preparation(size=24), frozen, trained)
    assert model.layout.outputs == 4
    torch.testing.assert_close(
        embed(model.encoder, images, "32-true"), embed(trained.encoder, images, "32-true"), atol=0, rtol=0
    )
    tuned = learn(images, other, np.arange(120) % 4 == 0, Preparation(size=24), FAST, trained)
    assert not torch.equal(embed(tuned.encoder, images, "32-true"), embed(trained.encoder, images, "32-true"))


def test_a_starting_model_that_does_not_fit_is_refused(trained: Model) -> None:
    images, size = disks(60, 2, channels=1)
    common = (crowd(size, 2), np.arange(60) % 4 == 0, Preparation(size=24))
    with pytest.raises(GreenpeaError, match=r"saw 3 channels, these images have 1: set images\.channels=3"):
        learn(images, *common, FAST, trained)
    with pytest.raises(GreenpeaError, match="of width 4: set"):
        learn(disks(60, 2)[0], *common, FAST.model_copy(update={"width": 8}), trained)
    with pytest.raises(GreenpeaError, match="name the model it comes from with --from"):
        learn(images, *common, FAST.model_copy(update={"freeze": True}))


def test_a_tree_of_which_only_some_questions_were_asked_can_be_learned(tmp_path: Path) -> None:
    images, size = disks(150, 12)
    tree = galaxy_tree()
    votes = Votes.empty(tree, [f"s{i}" for i in range(150)])
    smooth = np.random.default_rng(0).binomial(20, 0.1 + 0.8 * size)
    votes.counts["smooth"][:, :2] = np.stack([smooth, 20 - smooth], 1)
    votes.reached["smooth"][:] = 20
    model = learn(images, votes, np.arange(150) % 4 == 0, Preparation(size=24), FAST)
    checkpoint.save(model, tmp_path / "run")
    again = checkpoint.load(tmp_path / "run")
    strange = np.random.default_rng(1).integers(0, 256, (64, 3, 24, 24)).astype(np.uint8)
    for some in (images[:64], strange):
        before, after = (one.predict(some, votes.subject_ids[:64]) for one in (model, again))
        for slug in tree.slugs:
            np.testing.assert_array_equal(before.parameters[slug], after.parameters[slug])
            assert np.isfinite(after.pmf(slug, 10)).all()
        assert np.isfinite(information.of_tree(after, 5, np.random.default_rng(0)).value).all()
    assert again.recalibration == model.recalibration != Recalibration.identity(tree)
    assert set(again.learned_from) == set(votes.subject_ids)


def test_learning_leaves_the_callers_random_numbers_alone() -> None:
    images, size = disks(60, 1)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    learn(images, crowd(size, 1), np.arange(60) % 4 == 0, Preparation(size=24), FAST.model_copy(update={"epochs": 1}))
    assert torch.equal(torch.rand(3), expected)


def test_a_diverging_training_is_refused() -> None:
    def broken(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs * torch.nan).sum() + 0 * targets.sum()

    with pytest.raises(GreenpeaError, match="diverged"):
        training.fit(
            nn.Linear(1, 1),
            _Line(8, 0.1),
            broken,
            held_out=_Line(8, 0.1),
            recipe=Recipe(epochs=2),
            fabric=training.make_fabric("32-true", accelerator="cpu"),
        )


def test_dropout_that_drops_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="without it all draws are the same"):
        Learning(uncertainty="dropout", dropout=0.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(GreenpeaError, match="set it to 'cpu' or 'auto'"):
        training.make_fabric(accelerator="cuda")


@pytest.mark.parametrize("name", ON_FROZEN)
def test_checkpoints_come_back_to_the_same_posterior(name: str, tmp_path: Path, trained: Model) -> None:
    model = _with_method(name, 80, trained)
    checkpoint.save(model, tmp_path / "run")
    again = checkpoint.load(tmp_path / "run")
    assert again.fingerprint() == model.fingerprint()
    images, _ = disks(20, 3)
    ids = np.arange(20).astype(str)
    before, after = model.predict(images, ids), again.predict(images, ids)
    np.testing.assert_array_equal(before.parameters["q"], after.parameters["q"])
    np.testing.assert_array_equal(before.distance, after.distance)
    facts = json.loads((tmp_path / "run" / "model.json").read_text())
    assert facts["settings"]["seed"] == 0
    assert facts["versions"]["torch"]


def _damages(folder: Path) -> dict[str, object]:
    numbers, facts = folder / "model.safetensors", folder / "model.json"
    return {
        "its bytes are not those": lambda: numbers.write_bytes(numbers.read_bytes()[:-100]),
        "it is not the JSON": lambda: facts.write_text(facts.read_text()[:200]),
        "it has no model.json": facts.unlink,
        "reads 'greenpea-model/1'": lambda: facts.write_text('{"format": "greenpea-model/9"}'),
    }


@pytest.mark.parametrize("words", list(_damages(Path())))
def test_damaged_checkpoints_are_refused_with_the_remedy(words: str, tmp_path: Path, trained: Model) -> None:
    checkpoint.save(trained, tmp_path / "run")
    _damages(tmp_path / "run")[words]()  # type: ignore[operator]
    with pytest.raises(GreenpeaError, match=words):
        checkpoint.load(tmp_path / "run")


def test_a_checkpoint_is_whole_or_absent(tmp_path: Path, trained: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(trained, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_when_a_checkpoint_is_written(
    tmp_path: Path, trained: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise checkpoint.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    checkpoint.save(trained, tmp_path / "run")
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(GreenpeaError, match=r"run cannot be written, the disk is full: make room"):
        checkpoint.save(trained, tmp_path / "run")
    assert checkpoint.load(tmp_path / "run").fingerprint() == trained.fingerprint()


def test_images_become_unit_floats_in_channels_last_memory() -> None:
    some = to_unit(torch.full((2, 3, 4, 4), 255, dtype=torch.uint8))
    assert some.is_contiguous(memory_format=torch.channels_last)
    assert float(some.max()) == 1.0
    assert float(to_unit(torch.full((1, 1, 2, 2), 0.5)).max()) == 0.5
