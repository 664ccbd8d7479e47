"""Opening a campaign's site: the store is filled from the folder, and what is wrong in the folder is said."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from starlette.testclient import TestClient

from greenpea.errors import GreenpeaError
from greenpea.settings import Settings
from greenpea.site.app import create_app
from greenpea.site.opening import Filled, fill, open_store, place_of, read_gold, secret_of
from greenpea.store import Store, Stream
from greenpea.subjects import SubjectSet
from greenpea.tree import DecisionTree
from greenpea.workflow import Workflow
from hands import galaxy_tree
from site_hands import NOW, make_campaign, workflow

GOLD = "subject_id,smooth-or-featured,rare-features\ns00,artifact,\ns03,smooth,ring lens-or-arc\ns04,,\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_campaign(tmp_path / "campaign", 6)


def _fill(folder: Path, store: Store) -> Filled:
    return fill(store, folder, Settings.load(folder / "campaign.toml"), NOW)


def _write(folder: Path, chosen: Workflow) -> None:
    (folder / "workflow.json").write_text(chosen.to_json(), encoding="utf-8")


# ---- filling -------------------------------------------------------------------------------------------


def test_filling_twice_adds_nothing(folder: Path, store: Store) -> None:
    first, again = _fill(folder, store), _fill(folder, store)
    assert first == Filled(6, new=6, gold=0, unused_gold=0, version="1.0", published=True, kept=False, missing=())
    assert again == Filled(6, new=0, gold=0, unused_gold=0, version="1.0", published=False, kept=False, missing=())
    assert [one.number for one in store.workflows.all()] == ["1.0"]


def test_a_changed_workflow_is_published_once(folder: Path, store: Store) -> None:
    _fill(folder, store)
    _write(folder, workflow(20))
    assert (_fill(folder, store).published, _fill(folder, store).published) == (True, False)
    _write(folder, Workflow(tree=galaxy_tree()))
    assert _fill(folder, store).version == "2.0"
    assert [one.number for one in store.workflows.all()] == ["2.0", "1.1", "1.0"]


def test_a_workflow_that_is_changed_back_is_published_again(folder: Path, store: Store) -> None:
    for limit, number in ((40, "1.0"), (20, "1.1"), (40, "1.2"), (20, "1.3")):
        _write(folder, workflow(limit))
        for published in (True, False):
            filled = _fill(folder, store)
            assert (filled.published, filled.version, filled.kept) == (published, number, False)
            assert store.workflows.active().workflow.limit == limit


def test_what_was_published_on_the_site_since_is_kept(folder: Path, store: Store) -> None:
    _fill(folder, store)
    for limit in (15, 14):
        store.workflows.publish(workflow(limit), NOW, author="Ada")
    filled = _fill(folder, store)
    assert (filled.published, filled.kept, filled.version) == (False, True, "1.2")
    # Copied from the site into the file, and not changed there.
    _write(folder, workflow(15))
    assert not _fill(folder, store).published
    # A file that was changed since is news.
    _write(folder, workflow(13))
    filled = _fill(folder, store)
    assert (filled.published, filled.kept, store.workflows.active().workflow.limit) == (True, False, 13)


def test_new_subjects_are_added_also_where_as_many_have_gone(folder: Path, store: Store) -> None:
    _fill(folder, store)
    for name in ("s00", "s01"):
        (folder / "images" / f"{name}.png").rename(folder / "images" / f"new-{name}.png")
    SubjectSet.from_folder(folder / "images").save(folder)
    filled = _fill(folder, store)
    assert (filled.new, filled.subjects) == (2, 8)
    assert store.subjects.get("new-s00") is not None
    assert store.subjects.get("s00") is not None


def test_the_share_of_the_audit_set_is_the_settings(tmp_path: Path, store: Store) -> None:
    folder = make_campaign(tmp_path / "all", 40, settings=["site.audit_share=0.5"])
    _fill(folder, store)
    audit = [one for one in store.subjects.browse(limit=50)[0] if one.audit]
    assert 8 < len(audit) < 32


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("workflow.json", "{", r"workflow\.json is not JSON"),
        ("workflow.json", None, r"there is no .*workflow\.json: put"),
        ("subjects.parquet", "no table", r"subjects\.parquet"),
        ("subjects.parquet", None, r"subjects\.parquet"),
        ("gold.csv", "", r"gold\.csv is empty"),
    ],
)
def test_a_broken_file_is_named(folder: Path, tmp_path: Path, name: str, text: str | None, words: str) -> None:
    (folder / name).unlink() if text is None else (folder / name).write_text(text)
    store = Store.open(tmp_path / "store.sqlite")
    with pytest.raises(GreenpeaError, match=words):
        _fill(folder, store)
    store.close()


# ---- known answers -------------------------------------------------------------------------------------


def test_known_answers_are_read_and_blank_cells_left_out(folder: Path, store: Store) -> None:
    (folder / "gold.csv").write_text(GOLD)
    filled = _fill(folder, store)
    assert (filled.gold, filled.unused_gold) == (2, 0)
    known = {one.subject_id: one.gold for one in store.subjects.browse()[0] if one.gold}
    assert known == {
        "s00": {"smooth-or-featured": ["artifact"]},
        "s03": {"smooth-or-featured": ["smooth"], "rare-features": ["ring", "lens-or-arc"]},
    }
    assert _fill(folder, store).unused_gold == 0


def test_known_answers_that_come_too_late_are_told(folder: Path, store: Store) -> None:
    (folder / "gold.csv").write_text("subject_id,smooth-or-featured\ns00,artifact\ns01,smooth\n")
    _fill(folder, store)
    (folder / "gold.csv").write_text("subject_id,smooth-or-featured\ns00,artifact\ns01,artifact\ns02,smooth\n")
    filled = _fill(folder, store)
    assert (filled.gold, filled.unused_gold) == (3, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("subject_id,bars\ns00,no\n", r"gold\.csv, column 'bars': no such question .did you mean 'bar'\?"),
        ("subject_id,bar\ns00,no\ns01,stong\n", r"row 3, column 'bar': .* 'stong' .did you mean 'strong'\?"),
        ("subject_id,bar\ns00,no strong\n", r"row 2, column 'bar': .* no answer 'no strong'"),
        ("subject_id,rare-features\ns00,ring rng\n", r"row 2, column 'rare-features': .*did you mean 'ring'\?"),
        ("subject_id,bar\ns00,no\ns01,\ns00,no\n", r"row 4: the id 's00' stood in row 2 already"),
        ("subject_id,bar\n,no\n", r"row 2: column 'subject_id' is blank"),
        ("subject_id,bar\ns001,no\n", r"gold\.csv: the campaign has no subject 's001' .did you mean 's0[01]'\?"),
        ("colour,bar\nred,no\n", r"gold\.csv has no identifier column .* Its columns: colour, bar"),
        ("subject_id,bar,bar\ns00,no,no\n", r"the column 'bar' more than once"),
    ],
)
def test_wrong_known_answers_are_said_with_row_and_column(folder: Path, tmp_path: Path, text: str, words: str) -> None:
    (folder / "gold.csv").write_text(text)
    store = Store.open(tmp_path / "store.sqlite")
    with pytest.raises(GreenpeaError, match=words):
        _fill(folder, store)
    assert store.subjects.count() == 0
    store.close()


def test_known_answers_survive_a_spreadsheet(tmp_path: Path) -> None:
    tree = DecisionTree.load("gz-decals-5")
    assert read_gold(tmp_path / "gold.csv", tree) == {}
    (tmp_path / "gold.csv").write_bytes("\ufeffsubject_id,bar\r\n00123456789012345678,no\r\nä, strong \r\n".encode())
    assert read_gold(tmp_path / "gold.csv", tree) == {
        "00123456789012345678": {"bar": ["no"]},
        "ä": {"bar": ["strong"]},
    }


def test_answers_that_look_like_numbers_or_nothing_are_text(tmp_path: Path) -> None:
    tree = DecisionTree.model_validate(
        {"name": "n", "questions": [{"slug": "arms", "answers": [{"slug": "1"}, {"slug": "null"}, {"slug": "02"}]}]}
    )
    (tmp_path / "gold.csv").write_text("id,arms\na,1\nb,02\n")
    assert read_gold(tmp_path / "gold.csv", tree) == {"a": {"arms": ["1"]}, "b": {"arms": ["02"]}}


# ---- subjects ------------------------------------------------------------------------------------------


def _with_columns(folder: Path, **columns: Any) -> None:
    known = SubjectSet.load(folder)
    made = {name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in columns.items()}
    replace(known, metadata=pa.table(made)).save(folder)


def test_further_images_come_from_their_columns(folder: Path, tmp_path: Path) -> None:
    (folder / "more").mkdir()
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (48, 48), colour).save(folder / "more" / f"{name}.png")
    elsewhere = tmp_path / "elsewhere.png"
    Image.new("RGB", (48, 48), "green").save(elsewhere)
    _with_columns(
        folder,
        image_2=["more/a.png", None, "", "more/b.png", str(elsewhere), "more/gone.png"],
        image_3=["more/b.png", None, None, None, None, None],
        image_4=[math.nan] * 6,
        image_10=["x"] * 6,
    )
    store = open_store(folder)
    _fill(folder, store)
    images = {one.subject_id: one.images for one in store.subjects.browse()[0]}
    assert images["s00"] == ("", "more/a.png", "more/b.png")
    assert (images["s01"], images["s02"], images["s03"]) == (("",), ("",), ("", "more/b.png"))
    assert images["s04"] == ("", str(elsewhere))
    numbers = {one.subject_id: one.id for one in store.subjects.browse()[0]}
    subject = store.subjects.get("s00")
    assert subject is not None
    assert set(subject.metadata) == {"image_10"}
    store.close()
    settings = Settings.load(folder / "campaign.toml")
    with TestClient(create_app(open_store(folder, None, settings), folder, settings, quiet=True)) as client:
        client.post("/api/v1/volunteers")
        found = {name: client.get(f"/images/{numbers[name]}/{n}").status_code for name, n in (("s00", 2), ("s05", 1))}
        assert found == {"s00": 200, "s05": 404}


def test_a_further_image_at_a_web_address_waits_there(folder: Path, tmp_path: Path) -> None:
    _with_columns(folder, image_2=["https://example.org/a.png"] + [None] * 5)
    store = Store.open(tmp_path / "store.sqlite")
    _fill(folder, store)
    subject = store.subjects.get("s00")
    assert subject is not None
    assert subject.images == ("", "https://example.org/a.png")
    store.close()


def test_odd_values_of_a_table_become_json(folder: Path, store: Store) -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    _with_columns(
        folder,
        z=[0.1, math.nan, math.inf, -math.inf, None, 5e-324],
        n=[2**62, -1, 0, None, 7, 8],
        flag=[True, False, None, True, True, True],
        name=["é", "\U0001f7e2", 'a,b\n"c"', "\x07", "", None],
        when=pa.array([moment] * 6),
        day=pa.array([datetime.date(2026, 1, 2)] * 6),
        raw=pa.array([b"\xff\x00", b"", None, b"x", b"y", b"z"]),
        price=pa.array([decimal.Decimal("1.50")] * 6),
        many=pa.array([[1.0, math.nan]] * 6),
        single=pa.array([0.5] * 6, pa.float32()),
    )
    _fill(folder, store)
    found = {one.subject_id: dict(one.metadata) for one in store.subjects.browse()[0]}
    assert [found[f"s0{i}"]["z"] for i in range(6)] == [0.1, None, None, None, None, 5e-324]
    assert [found[f"s0{i}"]["n"] for i in range(6)] == [2**62, -1, 0, None, 7, 8]
    assert [found[f"s0{i}"]["flag"] for i in range(3)] == [True, False, None]
    assert [found[f"s0{i}"]["name"] for i in range(6)] == ["é", "\U0001f7e2", 'a,b\n"c"', "\x07", "", None]
    assert found["s00"]["when"].startswith("2026-01-02 03:04:05")
    assert found["s00"]["day"] == "2026-01-02"
    assert [found[f"s0{i}"]["raw"] for i in range(3)] == ["2 bytes", "0 bytes", None]
    assert (found["s00"]["price"], found["s00"]["many"], found["s00"]["single"]) == ("1.50", "[1.0, nan]", 0.5)
    json.dumps(found, allow_nan=False)


# ---- settings ------------------------------------------------------------------------------------------


def test_how_streams_mix_is_the_settings(tmp_path: Path) -> None:
    chosen = ["site.rank=5", "site.random=2", "site.audit=0", "site.lease_minutes=7", "site.gold_first=0.25"]
    folder = make_campaign(tmp_path / "campaign", 2, settings=chosen)
    store = open_store(folder)
    options = store.queue.options
    assert options.weights == {Stream.RANK: 5, Stream.RANDOM: 2, Stream.AUDIT: 0}
    assert (options.lease, options.gold_first) == (datetime.timedelta(minutes=7), 0.25)
    store.close()


def test_the_store_is_where_one_says_else_where_the_environment_says_else_in_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GREENPEA_DATABASE", raising=False)
    assert place_of(folder) == folder / "store.sqlite"
    monkeypatch.setenv("GREENPEA_DATABASE", "postgresql://a@b/c")
    assert place_of(folder) == "postgresql://a@b/c"
    assert place_of(folder, "sqlite:///x") == "sqlite:///x"


@pytest.mark.parametrize("secret", ["x", "x" * 31])
def test_a_short_secret_is_refused(secret: str) -> None:
    with pytest.raises(GreenpeaError, match=r"GREENPEA_SECRET is too short .* 32 characters or more"):
        secret_of({"GREENPEA_SECRET": secret})


def test_a_long_secret_is_taken_and_none_means_the_stores() -> None:
    assert secret_of({"GREENPEA_SECRET": "x" * 32}) == b"x" * 32
    assert secret_of({"GREENPEA_SECRET": ""}) is None
    assert secret_of({}) is None
