"""Encoders of campaigns: the one that is shipped, others, and the embeddings of every image by them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from greenpea import simulate
from greenpea.campaign import Campaign
from greenpea.creation import create
from greenpea.errors import GreenpeaError
from greenpea.images import Preparation
from greenpea.learning import checkpoint, encoders, kept, selfsupervised
from greenpea.learning.crossfit import cross_fit
from greenpea.learning.kept import SHIPPED, KeptEncoder
from greenpea.learning.model import learn
from greenpea.learning.settings import Learning
from greenpea.subjects import in_audit
from greenpea.tree import DecisionTree
from greenpea.votes import Votes
from hands import one_question

PLAIN = Learning(precision="32-true", draws=8)


def at_random(width: int = 4, channels: int = 3, size: int = 24) -> KeptEncoder:
    torch.manual_seed(0)
    encoder = encoders.build("residual", channels, size, width).to(memory_format=torch.channels_last).eval()
    return KeptEncoder(encoder, Preparation(size=size, channels=channels), "residual", width, channels, "nowhere")


def campaign_of(folder: Path, count: int, channels: int = 3, *overrides: str) -> Campaign:
    """A campaign of small pictures of noise, without votes."""
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = rng.integers(0, 256, (24, 24, 3) if channels == 3 else (24, 24)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"s{index:03d}.png")
    campaign, _ = create(folder / "campaign", one_question(2), folder / "pictures", overrides=overrides)
    return campaign


# ---- files -------------------------------------------------------------------------------------------


def test_encoders_come_back_as_they_were(tmp_path: Path) -> None:
    encoder = at_random()
    again = checkpoint.load_encoder(checkpoint.save_encoder(encoder, tmp_path / "e"))
    assert again.fingerprint == encoder.fingerprint
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 24, 24)).astype(np.uint8)
    np.testing.assert_array_equal(again.embed(images, "32-true"), encoder.embed(images, "32-true"))
    other = encoder.prepared(Preparation(size=24, channels=3, crop=0.5))
    assert other.fingerprint != encoder.fingerprint  # other embeddings of the same images
    rounded = checkpoint.load_encoder(checkpoint.save_encoder(encoder, tmp_path / "half", half=True))
    assert rounded.fingerprint != encoder.fingerprint
    np.testing.assert_allclose(rounded.embed(images, "32-true"), encoder.embed(images, "32-true"), atol=0.05)


def test_damaged_encoders_are_refused(tmp_path: Path) -> None:
    folder = checkpoint.save_encoder(at_random(), tmp_path / "e")
    numbers, facts = folder / "encoder.safetensors", folder / "encoder.json"
    whole = numbers.read_bytes()
    numbers.write_bytes(whole[:-8])
    with pytest.raises(GreenpeaError, match="its bytes are not those that were saved"):
        checkpoint.load_encoder(folder)
    numbers.write_bytes(whole)
    facts.write_text(facts.read_text().replace("greenpea-encoder/1", "greenpea-encoder/9"))
    with pytest.raises(GreenpeaError, match="its format is"):
        checkpoint.load_encoder(folder)
    with pytest.raises(GreenpeaError, match=r"it has no encoder\.safetensors"):
        checkpoint.load_encoder(tmp_path)


# ---- the one that is shipped -------------------------------------------------------------------------


def test_the_shipped_encoder_is_small_and_has_seen_nobodys_votes() -> None:
    shipped = checkpoint.load_encoder(SHIPPED)
    assert shipped.learned_from == ()
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 3_000_000
    assert "simulated galaxies" in shipped.origin
    assert shipped.width == Learning().width  # 'greenpea train --from' takes it as it is


def test_the_shipped_encoder_beats_a_random_one_on_new_galaxies() -> None:
    tree = DecisionTree.load("gz-decals-5")
    some = simulate.galaxies(400, 4711)
    votes = simulate.classify(some.truth, tree, 15, simulate.volunteers(100, 3), 3, some.subject_ids)
    images = np.ascontiguousarray(np.moveaxis(some.images, 3, 1))
    shipped = checkpoint.load_encoder(SHIPPED)
    scores = {}
    for name, encoder in {"shipped": shipped, "random": at_random(shipped.width, 3, 64)}.items():
        embeddings = encoder.embed(images, "32-true")
        posterior = cross_fit(embeddings, votes, PLAIN, reserve=0).posterior(embeddings, votes.subject_ids)
        scores[name] = sum(posterior.log_pmf(slug, votes).sum() for slug in tree.slugs) / votes.total.sum()
    assert scores["shipped"] > scores["random"] + 0.02  # nats per vote


# ---- a campaign's encoder ----------------------------------------------------------------------------


def test_a_campaign_keeps_its_encoder_until_its_settings_change(tmp_path: Path) -> None:
    campaign = campaign_of(tmp_path, 3)
    first = campaign.encoder()
    assert first.preparation.size == 64
    assert campaign.encoder().fingerprint == first.fingerprint
    assert (campaign.folder / "encoder" / "encoder.json").is_file()
    cropped = Campaign.open(campaign.folder, ["images.crop=0.5"]).encoder()
    assert cropped.preparation.crop == 0.5
    assert cropped.fingerprint != first.fingerprint


def test_grey_images_become_rgb_and_this_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    campaign = campaign_of(tmp_path, 3, channels=1)
    found = campaign.embeddings(lambda stage, share, words: said.append(words))
    assert "grey images are repeated in three channels for the shipped encoder" in said
    assert len(found) == 3


def test_encoders_that_do_not_suit_the_images_are_refused(tmp_path: Path) -> None:
    campaign = campaign_of(tmp_path, 3, 3, "images.bands=[0,1]")
    with pytest.raises(GreenpeaError, match="the images have 2 channels and the shipped encoder takes 3"):
        campaign.encoder()
    checkpoint.save_encoder(at_random(channels=1), tmp_path / "grey")
    with pytest.raises(GreenpeaError, match="3 channels and the encoder takes 1"):
        at_random(channels=1).embed(np.zeros((1, 3, 24, 24), np.uint8))
    with pytest.raises(GreenpeaError, match="is no folder; write 'shipped', 'self', or the folder"):
        Campaign.open(campaign.folder, ["loop.encoder=nowhere"]).encoder()


def test_an_encoder_that_has_seen_votes_of_these_subjects_is_refused(tmp_path: Path) -> None:
    campaign = campaign_of(tmp_path, 60)
    images = np.random.default_rng(0).integers(0, 256, (60, 3, 24, 24)).astype(np.uint8)
    settings = PLAIN.model_copy(update={"epochs": 1, "width": 4})
    folders = {}
    for name, ids in {"these": list(campaign.subjects.subject_ids), "others": [f"o{i}" for i in range(60)]}.items():
        votes = Votes.empty(campaign.tree, ids)
        votes.counts["q"][:], votes.reached["q"][:] = [3, 2], 5
        model = learn(images, votes, np.arange(60) % 4 == 0, Preparation(size=24), settings)
        folders[name] = checkpoint.save(model, tmp_path / name)
    with pytest.raises(GreenpeaError, match="has learned from votes on 60 subjects of this campaign"):
        Campaign.open(campaign.folder, [f"loop.encoder={folders['these']}"]).encoder()
    found = Campaign.open(campaign.folder, [f"loop.encoder={folders['others']}"]).encoder()
    assert set(found.learned_from) == {f"o{i}" for i in range(60)}
    again = Campaign.open(campaign.folder, ["loop.encoder=encoder"]).encoder()  # its own folder: the one kept
    assert again.fingerprint == found.fingerprint


# ---- its embeddings ----------------------------------------------------------------------------------


def test_only_what_is_missing_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = campaign_of(tmp_path, 5)
    seen: list[int] = []
    embed = kept.embed
    monkeypatch.setattr(
        kept, "embed", lambda encoder, images, *how: seen.append(len(images)) or embed(encoder, images, *how)
    )
    first = campaign.embeddings()
    more = campaign_of(tmp_path / "more", 8)
    (campaign.folder / "subjects.parquet").write_bytes((more.folder / "subjects.parquet").read_bytes())
    second = Campaign.open(campaign.folder).embeddings()
    Campaign.open(campaign.folder).embeddings()
    assert seen == [5, 3]
    rows = second.rows_of(campaign.subjects.subject_ids)
    np.testing.assert_array_equal(second.take(rows), first.take(first.rows_of(campaign.subjects.subject_ids)))


def test_unreadable_images_are_asked_again_once_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = campaign_of(tmp_path, 4)
    broken = tmp_path / "pictures" / "s001.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"no picture")
    found = campaign.embeddings()
    assert set(found.unreadable) == {"s001"}
    assert found.rows_of(["s001", "s002"]).tolist() == [-1, 1]
    asked: list[int] = []
    batches = kept_batches()
    monkeypatch.setattr(
        "greenpea.campaign.images.batches", lambda some, *how: asked.append(len(some)) or batches(some, *how)
    )
    campaign.embeddings()
    broken.write_bytes(whole)
    os.utime(broken, ns=(2**62, 2**62))
    mended = campaign.embeddings()
    assert asked == [0, 1]
    assert mended.unreadable == {}
    assert mended.rows_of(["s001"]).tolist() == [3]


def kept_batches() -> object:
    from greenpea import images

    return images.batches


# ---- the audit set -----------------------------------------------------------------------------------


def test_audit_subjects_are_never_trained_on(tmp_path: Path) -> None:
    campaign = campaign_of(tmp_path, 80, 3, "site.audit_share=0.3", "learning.epochs=1", "learning.width=4")
    votes = Votes.empty(campaign.tree, list(campaign.subjects.subject_ids))
    votes.counts["q"][:], votes.reached["q"][:] = [3, 2], 5
    import pyarrow.parquet as pq

    pq.write_table(votes.to_table(), campaign.folder / "votes.parquet")
    _, model = Campaign.open(campaign.folder).train()
    audited = {subject for subject in campaign.subjects.subject_ids if in_audit(subject, 0.3)}
    assert len(audited) > 10
    assert not audited & set(model.learned_from)
    assert (campaign.roles == "audit").sum() == len(audited)


def test_self_is_a_word_for_learning_from_the_campaigns_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = campaign_of(tmp_path, 40, 3, "loop.encoder=self", "learning.epochs=1", "learning.precision=32-true")
    found = campaign.encoder()
    assert found.learned_from == ()
    assert "40 images of the campaign, no vote; begun with 14,000 simulated galaxies" in found.origin
    monkeypatch.setattr(selfsupervised, "learn", None)  # it is learned once
    assert campaign.encoder().fingerprint == found.fingerprint
    assert len(campaign.embeddings()) == 40
