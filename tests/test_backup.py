"""Backups from every kind of database into every kind, damaged ones refused; and the migrations of the tables."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from greenpea.errors import GreenpeaError
from greenpea.store import NewSubject, Role, Store, backup, migrations, url_of
from greenpea.store.engine import Database
from greenpea.store.schema import Instant, metadata
from site_hands import NOW, artifact, classify, drop_database, fill_store, new_database, workflow

HOUR = timedelta(hours=1)
KINDS = ["sqlite", "postgresql"]


@pytest.fixture
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """A function that returns the URL of a new, empty database of a kind."""
    made: list[str] = []

    def new(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path / f'{uuid.uuid4().hex}.sqlite'}"
        made.append(new_database(request.getfixturevalue("postgres")))
        return made[-1]

    yield new
    for url in made:
        drop_database(url)


def _lived_in(store: Store) -> Store:
    """Fill a store with something of everything, odd characters included."""
    fill_store(store, 30, limit=4, audit_share=0.2, tutorial="Größe — 銀河")
    gold = {"smooth-or-featured": ["artifact"]}
    store.subjects.add(
        [NewSubject("g é \"'\\ ; --", ("", "2.png"), {"x": None, "y": [1, {"z": "\x00\ud83d"}]}, gold)], NOW
    )
    people = [store.people.anonymous(NOW) for _ in range(4)]
    people += [store.people.sign_up(f"Ada {i} Ö", "the engine weaves", NOW, email=f"a{i}@x.org") for i in range(3)]
    store.people.set_role(people[4].id, Role.OWNER)
    rng = random.Random(1)
    for one in people:
        for i in rng.sample(range(30), 12):
            classify(store, one.id, f"s{i}", NOW + timedelta(microseconds=rng.randrange(10**9)))
    handed = store.queue.next(people[0].id, 3, NOW)
    sent = artifact(handed[0])
    store.classifications.submit([sent], NOW)
    store.classifications.undo(sent.uuid, people[0].id, NOW)
    # Merged into an account with a lower id, and into one with a higher.
    store.people.merge(people[1].id, people[6].id, NOW)
    late = store.people.anonymous(NOW)
    classify(store, late.id, "s3")
    store.people.merge(late.id, people[4].id, NOW)
    store.people.ban(people[2].id, NOW, recount=True)
    store.workflows.publish(workflow(3, tutorial="Größe — 銀河"), NOW + HOUR, author="Ada")
    one = store.rounds.create("model-1", 7, {"n": 1}, NOW)
    ranked = [(f"s{i}", i / 7) for i in range(29, -1, -1)]
    store.rounds.publish(one, ranked, [0.1] * 30)
    store.rounds.activate(one, NOW)
    find = store.finds.flag(str(uuid.uuid4()), people[0].id, 1, "green \U0001f7e2", NOW)
    store.finds.like(find.id, people[4].id, True)
    store.people.favourite(people[4].id, 2, True, NOW)
    store.people.open_session(people[4].id, NOW)
    store.people.invite(Role.SCIENTIST, NOW)
    return store


def _rows(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, as values that both kinds of database give alike."""
    database = Database(url)
    with database.read() as connection:
        found = {
            table.name: [
                tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns))
            ]
            for table in metadata.sorted_tables
        }
    database.close()
    return found


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_everything_comes_back_and_goes_on(
    source: str, target: str, empty: Callable[[str], str], tmp_path: Path
) -> None:
    first, second = empty(source), empty(target)
    store = _lived_in(Store.open(first))
    told: list[tuple[str, float]] = []
    written = backup.write(store.database, tmp_path / "b.zip", NOW, lambda stage, share, _: told.append((stage, share)))
    secret, recounted = store.secret, store.classifications.recount()
    store.close()
    before = _rows(first)
    assert recounted == 0
    assert written == {name: len(rows) for name, rows in before.items()}
    assert all(before.values()), "a table is empty: this test shows nothing about it"
    assert {stage for stage, share in told if share == 1.0} == set(before)

    database = Database(second)
    assert backup.read(database, tmp_path / "b.zip") == written
    database.close()
    assert _rows(second) == before

    again = Store.open(second)
    assert again.secret == secret
    assert again.classifications.recount() == 0
    # An account that was merged still leads to the other.
    merged = [row for row in before["volunteers"] if row[-2] is not None]
    assert len(merged) == 2
    for row in merged:
        assert again.people.get(row[0]).id == row[-2]  # type: ignore[union-attr]
    _go_on(again, before)
    again.close()


def _go_on(store: Store, before: dict[str, list[tuple[Any, ...]]]) -> None:
    """Everything that gets a new number gets a free one."""
    ada = store.people.sign_up("Grace", "a nanosecond of wire", NOW)
    assert ada.id > max(row[0] for row in before["volunteers"])
    assert store.people.check_password("ada 0 ö", "the engine weaves") is not None
    handed = store.queue.next(ada.id, 5, NOW)
    assert len(handed) == 5
    assert all(not one.error for one in store.classifications.submit([artifact(one) for one in handed], NOW))
    store.subjects.add([NewSubject("new", ("",))], NOW)
    classify(store, ada.id, "new")
    store.workflows.publish(workflow(5), NOW + 2 * HOUR)
    another = store.rounds.create("model-2", 8, {}, NOW)
    store.rounds.publish(another, [("new", 0.5)])
    store.rounds.activate(another, NOW)
    store.finds.flag(str(uuid.uuid4()), ada.id, 1, "", NOW)
    assert store.classifications.recount() == 0


def test_a_backup_of_an_older_revision_can_be_made_but_says_what_it_is(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fill_store(Store.open(database), 3)
    backup.write(store.database, tmp_path / "old.zip", NOW)
    monkeypatch.setattr(migrations, "newest", lambda: "9999")
    monkeypatch.setattr(migrations, "known", lambda: {"0001", "0002", "9999"})
    with pytest.raises(GreenpeaError, match="make a backup, then run 'greenpea upgrade'"):
        migrations.check(store.database)
    assert backup.write(store.database, tmp_path / "b.zip", NOW)["subjects"] == 3
    with pytest.raises(GreenpeaError, match="restore it with the version that made it"):
        backup.read(store.database, tmp_path / "b.zip")
    store.close()


def test_a_backup_while_people_vote_is_one_state(database: str, empty: Callable[[str], str], tmp_path: Path) -> None:
    store = fill_store(Store.open(database), 40, limit=6)
    people = [store.people.anonymous(NOW) for _ in range(4)]
    going, stop = threading.Barrier(5), threading.Event()

    def vote(one: int) -> int:
        going.wait()
        sent = 0
        while not stop.is_set() or not sent:
            classify(store, one, f"s{sent % 40}")
            sent += 1
        return sent

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(vote, one.id) for one in people]
        going.wait()
        counts = [backup.write(store.database, tmp_path / f"{i}.zip", NOW) for i in range(4)]
        stop.set()
        sent = sum(job.result() for job in jobs)
    store.close()
    kept = [one["classifications"] for one in counts]
    assert kept == sorted(kept)
    assert kept[-1] <= sent
    restored = Store(_restored(tmp_path / "3.zip", empty("sqlite")))
    assert len(list(restored.classifications.stream())) == kept[-1]
    assert restored.classifications.recount() == 0
    restored.close()


def _restored(file: Path, url: str) -> Database:
    database = Database(url)
    backup.read(database, file)
    return database


# ---- what cannot be restored ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    store = _lived_in(Store.open(folder / "store.sqlite"))
    backup.write(store.database, folder / "good.zip", NOW)
    store.close()
    return folder / "good.zip"


def _rewritten(good: Path, out: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """Copy a backup part by part, each changed, or left out where ``change`` returns None."""
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            if (content := change(name, source.read(name))) is not None:
                target.writestr(name, content)
    return out


def _about(**more: object) -> Callable[[str, bytes], bytes]:
    return lambda name, content: content if name != "about.json" else json.dumps(json.loads(content) | more).encode()


def _first_line(table: str, **more: object) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if name != f"{table}.jsonl":
            return content
        head, _, rest = content.partition(b"\n")
        return json.dumps(json.loads(head) | more).encode() + b"\n" + rest

    return change


def _without(part: str) -> Callable[[str, bytes], bytes | None]:
    return lambda name, content: None if name == part else content


def _flipped(good: Path, out: Path, part: str) -> Path:
    """Copy a backup with one bit changed in the middle of a part's compressed bytes."""
    raw = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as archive:
        info = archive.getinfo(part)
    raw[info.header_offset + 30 + len(part) + 20 + info.compress_size // 2] ^= 0x10
    out.write_bytes(raw)
    return out


def _something(out: Path, content: bytes) -> Path:
    out.write_bytes(content)
    return out


def _other_zip(out: Path, about: str | None = None) -> Path:
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("letter.txt", "Dear reader")
        if about is not None:
            archive.writestr("about.json", about)
    return out


UNUSABLE: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "no file": (lambda good, out: out, "No such file"),
    "a folder": (lambda good, out: good.parent, "cannot be read as a backup"),
    "text": (lambda good, out: _something(out, b"votes"), "give a file of 'greenpea backup'"),
    "empty": (lambda good, out: _something(out, b""), "give a file of 'greenpea backup'"),
    "cut off": (lambda good, out: _something(out, good.read_bytes()[:-500]), "give a file of 'greenpea backup'"),
    "another zip": (lambda good, out: _other_zip(out), "it has no about.json"),
    "another zip's about": (lambda good, out: _other_zip(out, "[]"), "is damaged"),
    "another program's about": (lambda good, out: _other_zip(out, '{"version": 2}'), "is damaged"),
    "a bit flipped": (lambda good, out: _flipped(good, out, "classifications.jsonl"), "is damaged"),
    "a bit flipped at the head": (lambda good, out: _flipped(good, out, "about.json"), "is damaged"),
    "another format": (lambda good, out: _rewritten(good, out, _about(format=2)), "has the format 2.*upgrade Greenpea"),
    "newer": (lambda good, out: _rewritten(good, out, _about(revision="9999")), "newer Greenpea.*upgrade Greenpea"),
    "a table is missing": (lambda good, out: _rewritten(good, out, _without("likes.jsonl")), "is damaged"),
    "lines are missing": (
        lambda good, out: _rewritten(good, out, lambda n, c: b"" if n == "sessions.jsonl" else c),
        "should hold 1 rows of sessions, and holds 0",
    ),
    "no JSON": (lambda good, out: _rewritten(good, out, lambda n, c: c[5:] if n == "meta.jsonl" else c), "is damaged"),
    "another column": (lambda good, out: _rewritten(good, out, _first_line("subjects", colour=1)), "is damaged"),
    "text for a time": (lambda good, out: _rewritten(good, out, _first_line("subjects", created_at="x")), "is damaged"),
    "no such volunteer": (
        lambda good, out: _rewritten(good, out, _first_line("classifications", volunteer=999)),
        "is damaged",
    ),
    "an id twice": (lambda good, out: _rewritten(good, out, _first_line("volunteers", id=2)), "is damaged"),
}


@pytest.mark.parametrize(("make", "words"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_what_is_no_whole_backup_is_refused_and_nothing_is_written(
    make: Callable[[Path, Path], Path], words: str, good: Path, tmp_path: Path, database: str
) -> None:
    file = make(good, tmp_path / "bad.zip")
    target = Database(database)
    with pytest.raises(GreenpeaError, match=words) as error:
        backup.read(target, file)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)
    with target.read() as connection:
        names = sa.inspect(connection).get_table_names()
        assert all(
            connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == 0
            for table in metadata.sorted_tables
            if table.name in names
        )
    # The database is still good for a whole one.
    assert backup.read(target, good)["subjects"] == 31
    target.close()


def test_a_store_in_use_is_not_overwritten(store: Store, good: Path) -> None:
    fill_store(store, 2)
    before = store.secret
    with pytest.raises(GreenpeaError, match=r"holds \d+ rows of \w+ already: restore into a new one"):
        backup.read(store.database, good)
    assert store.subjects.count() == 2
    with store.database.read() as connection:
        assert connection.execute(sa.text("SELECT value FROM meta WHERE key = 'secret'")).scalar_one() == before.hex()


def test_a_folder_is_never_replaced_by_a_backup(store: Store, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "older.zip").write_text("precious")
    with pytest.raises(GreenpeaError, match="is a folder: give the name of a file"):
        backup.write(store.database, kept, NOW)
    assert (kept / "older.zip").read_text() == "precious"
    with pytest.raises(GreenpeaError, match="cannot be written"):
        backup.write(store.database, kept / "older.zip" / "b.zip", NOW)
    assert [file.name for file in kept.iterdir()] == ["older.zip"]


def test_only_the_owner_may_read_a_backup(store: Store, tmp_path: Path) -> None:
    backup.write(store.database, tmp_path / "b.zip", NOW)
    assert (tmp_path / "b.zip").stat().st_mode & 0o077 == 0


def test_of_an_empty_database_there_is_no_backup(database: str, tmp_path: Path) -> None:
    target = Database(database)
    with pytest.raises(GreenpeaError, match="holds no store"):
        backup.write(target, tmp_path / "b.zip", NOW)
    target.close()
    assert not (tmp_path / "b.zip").exists()


# ---- migrations ----------------------------------------------------------------------------------------


def _same_type(context: Any, inspected: Any, column: Any, found: sa.types.TypeEngine[Any], wanted: Any) -> bool | None:
    if isinstance(wanted, Instant):
        return not isinstance(found, sa.BigInteger)
    return None  # as Alembic compares


def _differences(database: Database) -> list[Any]:
    with database.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": _same_type, "compare_server_default": False}
        )
        return compare_metadata(context, metadata)


def _described(database: Database) -> dict[str, Any]:
    """What the tables promise, as the database itself says it: what Alembic's comparison does not look at as well."""
    with database.read() as connection:
        seen = sa.inspect(connection)
        return {
            name: {
                "columns": {c["name"]: (str(c["type"]), c["nullable"], c["default"]) for c in seen.get_columns(name)},
                "key": seen.get_pk_constraint(name),
                "indexes": sorted(
                    (i["name"], i["column_names"], i["unique"], _options(i)) for i in seen.get_indexes(name)
                ),
                "unique": sorted((u["name"], u["column_names"]) for u in seen.get_unique_constraints(name)),
                "checks": sorted((c["name"], c["sqltext"]) for c in seen.get_check_constraints(name)),
                "references": sorted(
                    (f["name"], f["constrained_columns"], f["referred_table"], f["referred_columns"])
                    for f in seen.get_foreign_keys(name)
                ),
            }
            for name in seen.get_table_names()
            if name != "alembic_version"
        }


def _options(index: Any) -> list[tuple[str, str]]:
    """The condition of a partial index, and what else the kind of database says of one."""
    return sorted((name, str(value)) for name, value in index.get("dialect_options", {}).items())


def test_migrations_make_the_tables_of_the_schema(database: str, empty: Callable[[str], str]) -> None:
    migrated = Database(database)
    assert migrations.upgrade(migrated) is None
    assert _differences(migrated) == []
    made = Database(empty(migrated.kind))
    made.write(metadata.create_all)
    assert _plain(_described(migrated)) == _plain(_described(made))
    made.close()
    migrated.close()


def _plain(described: dict[str, Any]) -> Any:
    """Without the parentheses that SQLite keeps around a default as they were written."""
    return json.loads(json.dumps(described, default=str).replace('"(true)"', '"true"'))


def test_down_to_nothing_and_up_again(database: str) -> None:
    opened = Database(database)
    migrations.upgrade(opened)
    first = _described(opened)
    opened.write(lambda connection: command.downgrade(migrations.configuration(connection), "base"))
    assert _described(opened) == {}
    assert migrations.upgrade(opened) is None
    assert _described(opened) == first
    assert migrations.upgrade(opened) == migrations.newest()
    opened.close()
    store = fill_store(Store.open(database), 2)
    assert store.classifications.recount() == 0
    store.close()


def _execute(url: str, *statements: str) -> None:
    opened = Database(url)
    opened.write(lambda connection: [connection.exec_driver_sql(one) for one in statements])
    opened.close()


@pytest.mark.parametrize("act", [migrations.check, migrations.upgrade])
def test_a_store_of_a_newer_greenpea_is_left_alone(database: str, act: Callable[[Database], Any]) -> None:
    Store.open(database).close()
    _execute(database, "UPDATE alembic_version SET version_num = '9999'")
    opened = Database(database)
    with pytest.raises(GreenpeaError, match=r"newer Greenpea \(revision 9999\): upgrade Greenpea"):
        act(opened)
    opened.close()


@pytest.mark.parametrize("act", [migrations.check, migrations.upgrade])
def test_the_tables_of_another_program_are_left_alone(database: str, act: Callable[[Database], Any]) -> None:
    _execute(database, "CREATE TABLE invoices (id INTEGER)")
    opened = Database(database)
    with pytest.raises(GreenpeaError, match="other tables than Greenpea's: give it one of its own"):
        act(opened)
    with opened.read() as connection:
        assert sa.inspect(connection).get_table_names() == ["invoices"]
    opened.close()


def test_what_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "votes.csv").write_text("subject_id,smooth\n" * 1000)
    with pytest.raises(GreenpeaError, match="cannot be opened"):
        Store.open(tmp_path / "votes.csv")
    with pytest.raises(GreenpeaError, match="cannot be opened"):
        Store.open(tmp_path / "nowhere" / "store.sqlite")
    with pytest.raises(GreenpeaError, match="cannot be opened"):
        Store.open("postgresql://nobody@127.0.0.1:1/nothing")
    assert url_of(tmp_path / "s.sqlite").startswith("sqlite:///")


OPENING = """
import sys, time
from pathlib import Path
from greenpea.store import Store
print("ready", flush=True)
sys.stdin.readline()
store = Store.open(sys.argv[1])
print(store.secret.hex(), flush=True)
store.close()
"""


def test_processes_that_open_a_new_database_at_the_same_moment_share_it(database: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPENING, database],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for one in processes:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in processes:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    said = [one.communicate(timeout=60) for one in processes]
    assert [one.returncode for one in processes] == [0] * 4, said
    assert len({secret for secret, _ in said}) == 1


def test_threads_that_open_a_new_database_at_the_same_moment_share_it(database: str) -> None:
    start = threading.Barrier(6)

    def open_it(_: int) -> bytes:
        start.wait()
        store = Store.open(database)
        store.close()
        return store.secret

    with ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            assert len(set(pool.map(open_it, range(6)))) == 1
            _execute(database, "DELETE FROM meta")
