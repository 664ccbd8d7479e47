"""The commands around the site, through the real command line: serve, keep safe, bring in and out, people."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from greenpea import cli
from greenpea.cli.screen import console
from greenpea.settings import Settings
from greenpea.site.accounts import CLOSED
from greenpea.site.opening import fill, open_store
from greenpea.store import Role, SentClassification, Store
from greenpea.store.migrations import newest
from greenpea.tree import DecisionTree
from greenpea.votes import Votes, read_votes
from greenpea.workflow import Workflow
from greenpea.zooniverse import PanoptesSubject, read_classifications, read_subjects, subjects_csv, workflow_versions
from hands import galaxy_tree
from site_hands import NOW, classify, free_port, make_campaign, workflow

SMOOTH = {
    "smooth-or-featured": ["smooth"],
    "how-rounded": ["round"],
    "merging": ["none"],
    "rare-features": ["ring", "lens-or-arc"],
}
FEATURED = {
    "smooth-or-featured": ["featured-or-disk"],
    "disk-edge-on": ["yes"],
    "edge-on-bulge": ["rounded"],
    "merging": ["merger"],
    "rare-features": [],
}
Run = Callable[..., str]


@pytest.fixture
def greenpea(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line as a function: what it printed, in one line; ``fails``: its error, which must be one line."""
    for name in ("GREENPEA_DATABASE", "GREENPEA_URL", "GREENPEA_SECRET", "GREENPEA_SMTP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(console, "_width", 300)

    def run(*words: object, fails: bool = False) -> str:
        monkeypatch.setattr(sys, "argv", ["greenpea", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert bool(ended.value.code) == fails, out + err
        assert "Traceback" not in out + err
        if fails:
            assert len(err.strip().splitlines()) == 1, err
            assert err.startswith("Error: ")
            return err.strip()
        assert not err
        return " ".join(out.split())

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_campaign(tmp_path / "galaxies é [1]", 6, gold="subject_id,smooth-or-featured\ns05,artifact\n")


def _fill(folder: Path) -> Store:
    store = open_store(folder)
    fill(store, folder, Settings.load(folder / "campaign.toml"), NOW)
    return store


def _classified(folder: Path, volunteers: int = 3) -> Store:
    """Let volunteers, the first with an account, classify every subject in several ways."""
    store = _fill(folder)
    version = store.workflows.active()
    people = [store.people.sign_up("Ada Ö", "the engine weaves", NOW, role=Role.OWNER)]
    people += [store.people.anonymous(NOW) for _ in range(volunteers - 1)]
    for n, one in enumerate(people):
        for i in range(5):
            subject = store.subjects.get(f"s{i:02d}")
            assert subject is not None
            answers = (SMOOTH, FEATURED, {"smooth-or-featured": ["artifact"]})[(n + i) % 3]
            when = NOW + timedelta(seconds=60 * n + i)
            sent = SentClassification(
                str(uuid.uuid4()), one.id, subject.id, version.id, answers, started_at=NOW, finished_at=when
            )
            assert store.classifications.submit([sent], when)[0].error is None
    undone = store.classifications.of_volunteer(people[1].id)[0]
    store.classifications.undo(undone.uuid, people[1].id, NOW)
    return store


def _equal(votes: Votes, others: Votes) -> bool:
    others = others.align(votes.subject_ids)
    return all(
        (votes.counts[q] == others.counts[q]).all() and (votes.reached[q] == others.reached[q]).all()
        for q in votes.tree.slugs
    )


# ---- serve ---------------------------------------------------------------------------------------------


def _environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GREENPEA_")}
    return kept | {"COLUMNS": "300", "PYTHONUNBUFFERED": "1"} | more


@contextmanager
def _serving(*words: object, **more: str) -> Iterator[tuple[str, subprocess.Popen[str], list[str]]]:
    """Run ``greenpea serve`` until it answers; yield its address, its process, and the lines it said before."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "greenpea", "serve", *map(str, words), "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=_environment(**more),
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said: list[str] = []
        while not said or "Ctrl-C" not in said[-1]:
            line = process.stdout.readline()
            assert line, f"it ended: {said}"
            said.append(line)
        transport = httpx.HTTPTransport(retries=8)
        with httpx.Client(transport=transport, timeout=20) as client:
            assert client.get(f"http://127.0.0.1:{port}/readyz").json()["ready"] is True
        yield f"http://127.0.0.1:{port}", process, said
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers too, which hold its output open
        process.communicate()


def _stop(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM), rest
    assert "Traceback" not in rest
    return rest


def test_serve_opens_the_site_invites_an_owner_and_stops_when_told(folder: Path) -> None:
    with _serving(folder) as (address, process, said):
        text = "".join(said)
        assert "6 subjects (6 new, 1 with known answers), workflow version 1.0, store on sqlite" in text
        port = address.rpartition(":")[2]
        assert f"http://localhost:{port}/team" in text
        path = re.search(r"/join/[\w-]+", text)
        assert path is not None
        with httpx.Client(base_url=address, timeout=20) as client:
            assert client.get("/readyz").json() == {"ready": True, "database": "sqlite"}
            assert client.get("/healthz").json() == {"alive": True}
            assert client.get("/").status_code == 200
            assert client.get(path.group()).status_code == 200
            token = client.post("/api/v1/volunteers").json()["token"]
            bearer = {"Authorization": f"Bearer {token}"}
            handed = client.post("/api/v1/next", json={"count": 2}, headers=bearer)
            assert handed.status_code == 200, handed.text
        _stop(process)
    store = open_store(folder)
    assert store.classifications.recount() == 0
    store.close()


def test_serve_takes_several_workers_on_postgresql(folder: Path, postgres: str) -> None:
    from site_hands import drop_database, new_database

    url = new_database(postgres)
    try:
        words = ("--workers", 2, "--quiet", "--set", "site.sign_up=false")
        with _serving(folder, *words, GREENPEA_DATABASE=url) as (address, process, said):
            assert "store on postgresql" in "".join(said)
            with httpx.Client(base_url=address, timeout=20) as client:
                for _ in range(5):
                    assert client.get("/readyz").json() == {"ready": True, "database": "postgresql"}
                    assert CLOSED in client.get("/join").text
            _stop(process)
    finally:
        drop_database(url)
    assert not (folder / "store.sqlite").exists()


def test_serve_refuses_what_cannot_be(
    folder: Path, tmp_path: Path, greenpea: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = greenpea("serve", folder, "--workers", 2, "--port", free_port(), fails=True)
    assert "SQLite is written by one process: leave out --workers, or give a PostgreSQL --database" in said
    said = greenpea("serve", tmp_path / "nothing", fails=True)
    assert "is not a campaign: it has no campaign.toml. Make one with 'greenpea init'" in said
    assert not (tmp_path / "nothing").exists()
    monkeypatch.setenv("GREENPEA_SETS", "[]")
    said = greenpea("serve", folder, "--set", "site.signup=false", "--port", free_port(), fails=True)
    assert "there is no setting 'site.signup' (did you mean 'site.sign_up'?)" in said
    monkeypatch.setenv("GREENPEA_SECRET", "short")
    assert "GREENPEA_SECRET is too short" in greenpea("serve", folder, fails=True)
    monkeypatch.setenv("GREENPEA_SECRET", "")
    monkeypatch.setenv("GREENPEA_SMTP", "mail.example.org")
    assert "GREENPEA_SMTP must look like smtp://" in greenpea("serve", folder, fails=True)


def test_serve_says_that_a_port_is_taken(folder: Path, greenpea: Run) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = greenpea("serve", folder, "--port", taken.getsockname()[1], fails=True)
    assert "cannot listen on 127.0.0.1" in said
    assert "choose another --port" in said
    assert not (folder / "store.sqlite").exists()
    assert "cannot listen on 203.0.113.7" in greenpea("serve", folder, "--host", "203.0.113.7", fails=True)


def test_serve_says_which_database_cannot_be_opened(folder: Path, greenpea: Run) -> None:
    port = free_port()
    said = greenpea("serve", folder, "--port", port, "--database", "postgresql://a@127.0.0.1:1/b", fails=True)
    assert "the database cannot be opened" in said
    said = greenpea("serve", folder, "--port", port, "--database", "mysql://a@b/c", fails=True)
    assert "SQLite and PostgreSQL" in said


# ---- keeping it safe -----------------------------------------------------------------------------------


def test_a_backup_is_restored_into_another_folder(folder: Path, tmp_path: Path, greenpea: Run) -> None:
    store = _classified(folder)
    votes = store.classifications.votes()
    store.close()
    said = greenpea("backup", folder)
    assert "15 classifications by 3 volunteers on 6 subjects are in" in said
    (file,) = (folder / "backups").iterdir()
    assert file.name.startswith(folder.name)
    assert "To bring it back, where there is no store: greenpea restore '" in said
    other = make_campaign(tmp_path / "other", 6)
    said = greenpea("restore", other, file)
    assert "15 classifications by 3 volunteers on 6 subjects are back." in said
    assert "Every counter equals a recount" in said
    again = open_store(other)
    assert _equal(again.classifications.votes(), votes)
    assert again.people.check_password("ada ö", "the engine weaves") is not None
    again.close()
    assert "already: restore into a new one" in greenpea("restore", other, file, fails=True)


def test_a_backup_goes_into_a_folder_without_replacing_it(folder: Path, tmp_path: Path, greenpea: Run) -> None:
    _classified(folder).close()
    safe = tmp_path / "safe"
    safe.mkdir()
    (safe / "precious.txt").write_text("kept")
    greenpea("backup", folder, "--out", safe)
    assert (safe / "precious.txt").read_text() == "kept"
    assert len(list(safe.glob("*.zip"))) == 1
    greenpea("backup", folder, "--out", safe / "one.zip")
    assert (safe / "one.zip").is_file()
    assert "cannot be written" in greenpea("backup", folder, "--out", safe / "precious.txt" / "b.zip", fails=True)


def test_from_sqlite_to_postgresql_by_a_backup(folder: Path, tmp_path: Path, greenpea: Run, database: str) -> None:
    store = _classified(folder)
    votes = store.classifications.votes()
    store.close()
    greenpea("backup", folder, "--out", tmp_path / "b.zip")
    greenpea("restore", folder, tmp_path / "b.zip", "--database", database)
    again = open_store(folder, database)
    assert _equal(again.classifications.votes(), votes)
    again.close()
    greenpea("export", "votes", folder, "--database", database, "--out", tmp_path / "v.csv")
    assert _equal(read_votes(tmp_path / "v.csv", votes.tree), votes)


def test_what_is_no_backup_restores_nothing(folder: Path, tmp_path: Path, greenpea: Run) -> None:
    (tmp_path / "b.zip").write_text("votes")
    assert "give a file of 'greenpea backup'" in greenpea("restore", folder, tmp_path / "b.zip", fails=True)
    assert "give a file of 'greenpea backup'" in greenpea("restore", folder, tmp_path / "none.zip", fails=True)
    assert not (folder / "store.sqlite").exists()
    shutil.make_archive(str(tmp_path / "good"), "zip", folder)
    said = greenpea("restore", tmp_path / "nowhere", tmp_path / "good.zip", fails=True)
    assert "is not a campaign" in said
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "words", [["backup"], ["recount"], ["export", "votes"], ["export", "zooniverse", "--out", "x"]]
)
def test_without_a_store_there_is_nothing_to_look_at(words: list[str], folder: Path, greenpea: Run) -> None:
    said = (
        greenpea(*words[:2], folder, *words[2:], fails=True)
        if words[0] == "export"
        else greenpea(*words, folder, fails=True)
    )
    assert "has no store yet" in said
    assert "'greenpea serve' makes it" in said
    assert sorted(path.name for path in folder.iterdir()) == [
        "campaign.toml",
        "gold.csv",
        "images",
        "subjects.parquet",
        "workflow.json",
    ]
    said = (
        greenpea(*words[:2], folder.parent, *words[2:], fails=True)
        if words[0] == "export"
        else greenpea(*words, folder.parent, fails=True)
    )
    assert "is not a campaign" in said


def test_of_a_store_without_a_workflow_nothing_is_exported(folder: Path, tmp_path: Path, greenpea: Run) -> None:
    open_store(folder).close()
    for words in (("export", "votes", folder), ("export", "zooniverse", folder, "--out", tmp_path / "z")):
        assert "has no workflow yet: 'greenpea serve' brings it in" in greenpea(*words, fails=True)


def test_recount_finds_a_counter_that_is_wrong(folder: Path, greenpea: Run, capsys: pytest.CaptureFixture[str]) -> None:
    store = _classified(folder)
    assert "Every counter equals a recount of the raw classifications." in greenpea("recount", folder)
    store.database.write(lambda c: c.exec_driver_sql("UPDATE progress SET classifications = 9 WHERE subject = 1"))
    store.close()
    with pytest.raises(AssertionError):
        greenpea("recount", folder)
    done = subprocess.run(
        [sys.executable, "-m", "greenpea", "recount", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(),
    )
    assert done.returncode == 1
    assert "1 counters differ" in done.stdout


def test_upgrade_says_where_a_store_is(folder: Path, greenpea: Run) -> None:
    assert f"is at revision {newest()}; it was empty." in greenpea("upgrade", folder)
    assert f"is at revision {newest()} already: nothing to do." in greenpea("upgrade", folder)
    store = open_store(folder)
    store.database.write(lambda c: c.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    store.close()
    for words in ("upgrade", "backup", "recount"):
        assert "newer Greenpea (revision 9999): upgrade Greenpea" in greenpea(words, folder, fails=True)
    assert "is not a campaign" in greenpea("upgrade", folder.parent, fails=True)


def test_upgrade_leaves_the_tables_of_others_alone(folder: Path, greenpea: Run, tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "books.sqlite") as books:
        books.execute("CREATE TABLE invoices (id INTEGER)")
    books.close()
    said = greenpea("upgrade", folder, "--database", tmp_path / "books.sqlite", fails=True)
    assert "holds other tables than Greenpea's" in said


# ---- votes ---------------------------------------------------------------------------------------------


def test_votes_are_exported_where_training_reads_them(folder: Path, tmp_path: Path, greenpea: Run) -> None:
    store = _classified(folder)
    votes = store.classifications.votes()
    store.close()
    said = greenpea("export", "votes", folder)
    assert f"{votes.total.sum()} replies to questions about 5 subjects are in" in said
    assert _equal(read_votes(folder / "votes.parquet", votes.tree), votes)
    greenpea("export", "votes", folder)
    greenpea("export", "votes", folder, "--out", tmp_path / "new folder" / "v.csv")
    assert _equal(read_votes(tmp_path / "new folder" / "v.csv", votes.tree), votes)
    from greenpea.campaign import Campaign

    assert int(Campaign.open(folder).votes.total.sum()) == int(votes.total.sum())


def test_votes_that_came_with_the_subjects_are_not_overwritten(folder: Path, greenpea: Run) -> None:
    _classified(folder).close()
    others = Votes.empty(DecisionTree.load("gz-decals-5"), ["s00"])
    pq.write_table(others.to_table(), folder / "votes.parquet")
    before = (folder / "votes.parquet").read_bytes()
    assert "or give --out" in greenpea("export", "votes", folder, fails=True)
    assert (folder / "votes.parquet").read_bytes() == before
    greenpea("export", "votes", folder, "--out", folder / "votes.parquet")


def test_the_campaign_follows_a_workflow_that_was_published_on_the_site(folder: Path, greenpea: Run) -> None:
    store = _classified(folder)
    newer = workflow(7, guide="Look at the arms.")
    assert store.workflows.publish(newer, NOW, author="ada").number == "1.1"
    store.close()
    said = greenpea("export", "votes", folder)
    assert "is now version 1.1, as published on the site" in said
    assert Workflow.load(folder / "workflow.json") == newer
    assert Workflow.load(folder / "workflow before 1.1.json") != newer
    assert "is now version" not in greenpea("export", "votes", folder)


def test_simulated_campaigns_without_votes_leave_room_for_those_of_the_site(tmp_path: Path, greenpea: Run) -> None:
    said = greenpea("simulate", tmp_path / "sky", "--subjects", 8, "--votes", 0, "--size", 16)
    assert "without votes yet" in said
    assert "greenpea serve" in said
    assert not (tmp_path / "sky" / "votes.parquet").exists()


def test_images_that_are_not_there_are_told_at_the_start(tmp_path: Path) -> None:
    folder = make_campaign(tmp_path / "sky", 5)
    (folder / "images" / "s03.png").unlink()
    settings = Settings.load(folder / "campaign.toml")
    store = open_store(folder, None, settings)
    assert fill(store, folder, settings, NOW).missing == ("s03",)
    store.close()


def test_votes_are_tables_only(folder: Path, tmp_path: Path, greenpea: Run) -> None:
    _classified(folder).close()
    assert "written as .parquet or .csv" in greenpea(
        "export", "votes", folder, "--out", tmp_path / "v.xlsx", fails=True
    )


# ---- Zooniverse ----------------------------------------------------------------------------------------


def test_the_exported_files_are_read_back(folder: Path, tmp_path: Path, greenpea: Run) -> None:
    store = _classified(folder)
    votes, limit = store.classifications.votes(), store.workflows.active().workflow.limit
    counted = [one.uuid for one in store.classifications.stream(counted_only=True)]
    store.close()
    out = tmp_path / "panoptes"
    said = greenpea("export", "zooniverse", folder, "--out", out)
    assert "classifications.csv: 14 rows" in said, said
    assert "subjects.csv: 6 rows" in said
    assert sorted(file.name for file in out.iterdir()) == [
        "classifications.csv",
        "reductions.csv",
        "subjects.csv",
        "workflows.csv",
    ]
    (version,) = workflow_versions(out / "workflows.csv")
    assert version.tree.structure == votes.tree.structure
    found = read_classifications(out / "classifications.csv", [version])
    assert [one.uuid for one in found] == counted
    assert (found.report.used, found.report.unused, found.report.partly) == (14, [], [])
    subjects = read_subjects(out / "subjects.csv")
    assert sorted(one.subject_id for one in subjects) == [f"s0{i}" for i in range(6)]
    with (out / "reductions.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["subject_id"] == "s00"]
    assert sum(int(float(row["reached"])) for row in rows if row["reached"]) == int(votes.total[0])
    assert limit == 40


def test_an_export_is_imported_once(folder: Path, tmp_path: Path, greenpea: Run) -> None:
    store = _classified(folder)
    votes = store.classifications.votes()
    store.close()
    out = tmp_path / "panoptes"
    greenpea("export", "zooniverse", folder, "--out", out)
    other = make_campaign(tmp_path / "other", 6)
    words = ("import", "zooniverse", other, out / "classifications.csv", "--workflows", out / "workflows.csv")
    said = greenpea(*words)
    assert "14 of 14 rows used, 14 classifications" in said
    assert "14 classifications stored and counted; 0 were here already" in said
    assert not list(out.glob("*.unused.csv"))
    assert "0 classifications stored and counted; 14 were here already" in greenpea(*words)
    again = open_store(other)
    assert _equal(again.classifications.votes(), votes)
    assert again.classifications.recount() == 0
    assert len(again.people.listing()[0]) == 3
    assert {one.stream.value for one in again.classifications.stream()} == {"import"}
    again.close()
    greenpea("export", "zooniverse", other, "--out", tmp_path / "again")
    with (tmp_path / "again" / "classifications.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["classification_id"]: row for row in csv.DictReader(file)}
    with (out / "classifications.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            same = rows[row["classification_id"]]
            assert json.loads(same["annotations"]) == json.loads(row["annotations"])
            assert same["subject_ids"] == row["subject_ids"]


def test_what_cannot_be_imported_is_kept_and_told(folder: Path, tmp_path: Path, greenpea: Run) -> None:
    _classified(folder).close()
    out = tmp_path / "panoptes"
    greenpea("export", "zooniverse", folder, "--out", out)
    file = out / "classifications.csv"
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    rows[0]["annotations"] = "[]"
    rows[1]["subject_ids"] = "elsewhere"
    rows[2]["annotations"] = "no JSON"
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    other = make_campaign(tmp_path / "other", 6)
    said = greenpea("import", "zooniverse", other, file, "--workflows", out / "workflows.csv")
    assert "11 classifications stored" in said
    assert "1 are on subjects that the campaign has not" in said
    assert "elsewhere" in said
    assert "2 rows could not be used" in said
    with (other / "imports" / "classifications.unused.csv").open(encoding="utf-8", newline="") as opened:
        reasons = [row["reason"] for row in csv.DictReader(opened)]
    assert len(reasons) == 2
    with (other / "imports" / "classifications.refused.csv").open(encoding="utf-8", newline="") as opened:
        assert ["'elsewhere'" in row["reason"] for row in csv.DictReader(opened)] == [True]


def test_a_subject_export_gives_metadata_and_says_what_is_missing(folder: Path, tmp_path: Path, greenpea: Run) -> None:
    _classified(folder).close()
    out = tmp_path / "panoptes"
    greenpea("export", "zooniverse", folder, "--out", out)
    known = PanoptesSubject("s00", ("https://example.org/0.jpg",), {"ra": 12.5, "#hidden": "x"})
    far = PanoptesSubject("far", ("https://example.org/1.jpg", "https://example.org/2.jpg"))
    file = tmp_path / "theirs.csv"
    file.write_text("".join(subjects_csv([known, far])), encoding="utf-8", newline="")
    other = make_campaign(tmp_path / "other", 6)
    words = ("import", "zooniverse", other, out / "classifications.csv", "--workflows", out / "workflows.csv")
    said = greenpea(*words, "--subjects", file)
    assert "metadata of 1 of the campaign's subjects" in said
    assert "1 subjects are not in the campaign" in said
    assert "14 classifications stored and counted" in said
    listed = (other / "imports" / "theirs.to-fetch.csv").read_text(encoding="utf-8").splitlines()
    assert listed == ["id,images", "far,https://example.org/1.jpg https://example.org/2.jpg"]
    store = open_store(other)
    subject = store.subjects.get("s00")
    assert subject is not None
    assert (subject.metadata["ra"], subject.metadata["#hidden"], subject.images) == (12.5, "x", ("",))
    assert store.classifications.recount() == 0
    store.close()
    assert "subject_id" in greenpea(*words, "--subjects", out / "workflows.csv", fails=True)


@pytest.mark.data
def test_a_real_subject_export_is_listed(data_folder: Path, folder: Path, tmp_path: Path, greenpea: Run) -> None:
    real = data_folder / "zooniverse"
    words = ("import", "zooniverse", folder, real / "galaxy-zoo-decals-classifications.csv")
    words = (*words, "--workflows", real / "galaxy-zoo-workflow-versions.txt")
    said = greenpea(*words, "--subjects", real / "galaxy-zoo-subjects.csv")
    assert "173 subjects are not in the campaign" in said
    assert "9 of 9 rows used" in said
    assert "greenpea tree import" in said
    assert len((folder / "imports" / "galaxy-zoo-subjects.to-fetch.csv").read_text().splitlines()) == 174


def test_answers_that_do_not_fit_the_campaign_are_refused(folder: Path, tmp_path: Path, greenpea: Run) -> None:
    _classified(folder).close()
    out = tmp_path / "panoptes"
    greenpea("export", "zooniverse", folder, "--out", out)
    other = make_campaign(tmp_path / "other", 6, Workflow(tree=galaxy_tree()))
    said = greenpea("import", "zooniverse", other, out / "classifications.csv", "--workflows", out / "workflows.csv")
    assert "0 classifications stored" in said
    assert "14 do not fit the active workflow: not stored" in said


def test_files_that_are_not_there_are_named(folder: Path, tmp_path: Path, greenpea: Run) -> None:
    workflows = tmp_path / "workflows.json"
    words = ("import", "zooniverse", folder, tmp_path / "none.csv", "--workflows", workflows)
    assert "workflows.json" in greenpea(*words, fails=True)
    workflows.write_text("[]")
    assert "workflows.json" in greenpea(*words, fails=True)
    _classified(folder).close()
    greenpea("export", "zooniverse", folder, "--out", tmp_path)
    words = (*words[:-1], tmp_path / "workflows.csv")
    assert "none.csv" in greenpea(*words, fails=True)
    assert not list(tmp_path.glob("*.unused.csv"))
    (tmp_path / "file").write_text("")
    assert "is a file: give the name of a folder" in greenpea(
        "export", "zooniverse", folder, "--out", tmp_path / "file", fails=True
    )


@pytest.mark.data
def test_galaxy_zoo_is_imported_into_a_campaign_of_its_subjects(
    data_folder: Path, tmp_path: Path, greenpea: Run
) -> None:
    """The version with the most rows, its answers named as its own workflow names them."""
    real = data_folder / "zooniverse"
    versions = {one.version: one for one in workflow_versions(real / "galaxy-zoo-workflow-versions.txt")}
    found = list(read_classifications(real / "galaxy-zoo-decals-classifications.csv", list(versions.values())))
    folder = make_campaign(tmp_path / "galaxy zoo", 1, Workflow(tree=versions["28.30"].tree))
    subjects = sorted({one.subject_id for one in found})
    picture = next((folder / "images").iterdir())
    for name in subjects:
        shutil.copy(picture, folder / "images" / f"{name}.png")
    picture.unlink()
    from greenpea.subjects import SubjectSet

    SubjectSet.from_folder(folder / "images").save(folder)
    # The data folder may not be written to.
    export = Path(shutil.copy(real / "galaxy-zoo-decals-classifications.csv", tmp_path / "classifications.csv"))
    words = ("import", "zooniverse", folder, export, "--workflows", real / "galaxy-zoo-workflow-versions.txt")
    said = greenpea(*words)
    assert "9 of 9 rows used, 9 classifications" in said
    store = open_store(folder)
    stored = {one.uuid: one for one in store.classifications.stream()}
    assert len(stored) >= 2
    for one in found:
        if one.version == "28.30":
            assert stored[one.uuid].annotations == {q: list(answers) for q, answers in one.annotations.items()}
    counted = sum(one.counted.value == "counted" for one in stored.values())
    assert f"{counted} classifications stored and counted" in said
    assert store.classifications.recount() == 0
    store.close()
    assert f"0 classifications stored and counted; {len(stored)} were here already" in greenpea(*words)


# ---- people --------------------------------------------------------------------------------------------


def test_people_are_added_listed_and_given_roles(folder: Path, greenpea: Run) -> None:
    password = ("--password", "the engine weaves")
    assert "Nobody yet." in greenpea("people", "list", folder)
    assert "Ada Lovelace has an account: owner." in greenpea(
        "people", "add", folder, "Ada Lovelace", "--role", "owner", *password
    )
    greenpea("people", "add", folder, "Grace O'Hopper", *password)
    store = _fill(folder)
    grace = store.people.by_name("grace o'hopper")
    assert grace is not None
    assert grace.role is Role.VOLUNTEER
    classify(store, grace.id, "s00")
    store.close()
    said = greenpea("people", "list", folder)
    assert said.index("Grace O'Hopper") < said.index("Ada Lovelace")
    assert "Ada Lovelace" not in greenpea("people", "list", folder, "--search", "grace")
    assert "Nobody whose name holds 'zz'" in greenpea("people", "list", folder, "--search", "zz")
    assert "grace o'hopper is now scientist." in greenpea("people", "role", folder, "grace o'hopper", "Scientist")
    assert "is taken: choose another" in greenpea("people", "add", folder, "ada  LOVELACE", *password, fails=True)
    assert "10 to 256" in greenpea("people", "add", folder, "New", "--password", "short", fails=True)
    assert "needs an owner" in greenpea("people", "role", folder, "Ada Lovelace", "volunteer", fails=True)
    assert "did you mean 'scientist'?" in greenpea("people", "role", folder, "Grace O'Hopper", "scientits", fails=True)
    said = greenpea("people", "role", folder, "Nobody", "owner", fails=True)
    assert "there is no account 'Nobody'" in said
    assert "greenpea people list" in said
    assert "did you mean 'owner'?" in greenpea(
        "people", "add", folder, "New", "--role", "owners", *password, fails=True
    )


def test_links_set_a_password_and_let_people_join(folder: Path, greenpea: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    greenpea("people", "add", folder, "Ada", "--password", "the engine weaves")
    said = greenpea("people", "reset", folder, "ada")
    assert "Put the address of the site before it" in said
    token = re.search(r"/reset/([\w-]+)", said)
    assert token is not None
    monkeypatch.setenv("GREENPEA_URL", "https://galaxies.example.org/")
    invitation = re.search(
        r"https://galaxies\.example\.org/join/([\w-]+)", greenpea("people", "invite", folder, "--role", "moderator")
    )
    assert invitation is not None
    store = open_store(folder)
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    assert store.people.use_reset_token(token.group(1), "another password", now) is not None
    assert store.people.check_password("Ada", "another password") is not None
    assert store.people.use_invite(invitation.group(1), now) is Role.MODERATOR
    store.close()
    assert "there is no account 'Bob'" in greenpea("people", "reset", folder, "Bob", fails=True)
    assert "there is no role 'boss'" in greenpea("people", "invite", folder, "--role", "boss", fails=True)


def test_every_command_explains_itself_with_an_example(greenpea: Run) -> None:
    for words in (
        ("serve",),
        ("backup",),
        ("restore",),
        ("upgrade",),
        ("recount",),
        ("import", "zooniverse"),
        ("export", "zooniverse"),
        ("export", "votes"),
        ("people", "list"),
        ("people", "add"),
        ("people", "role"),
        ("people", "reset"),
        ("people", "invite"),
    ):
        said = greenpea(*words, "--help")
        assert f"greenpea {' '.join(words)} galaxies" in said, words


def test_a_workflow_of_the_site_is_kept_and_said(folder: Path, tmp_path: Path, greenpea: Run) -> None:
    store = _classified(folder)
    store.workflows.publish(workflow(30), NOW, author="Ada")
    store.close()
    greenpea("export", "zooniverse", folder, "--out", tmp_path / "out")
    words = ("import", "zooniverse", folder, tmp_path / "out" / "classifications.csv")
    said = greenpea(*words, "--workflows", tmp_path / "out" / "workflows.csv")
    assert "published on the site" in said
    assert "version 1.1" in said
