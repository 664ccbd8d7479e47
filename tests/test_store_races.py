"""The store under pressure: two processes on one database, crashes, broken connections, and whatever people send.

Two stores on one database imitate two processes: each has its own writer thread and its own connections.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from greenpea.classifications import Classification
from greenpea.errors import GreenpeaError
from greenpea.store import (
    Counted,
    NewSubject,
    QueueOptions,
    Role,
    SentClassification,
    Store,
    Stream,
    backup,
    identities,
    people,
    queue,
    workflows,
)
from greenpea.store import classifications as taking
from greenpea.store import subjects as adding
from greenpea.store.schema import handouts, progress, ranks, rounds
from site_hands import NOW, artifact, classify, drop_database, fill_store, new_database, sending, workflow

HOUR = timedelta(hours=1)
ARTIFACT = {"smooth-or-featured": ["artifact"]}
PASSWORD = "the engine weaves"
ONLY_RANDOM = QueueOptions(weights={Stream.RANDOM: 1.0}, gold_first=0, gold_last=0)
ONLY_RANKS = QueueOptions(weights={Stream.RANK: 1.0}, gold_first=0, gold_last=0)


@pytest.fixture
def pair(postgres: str) -> Iterator[tuple[Store, Store]]:
    """Two stores on one PostgreSQL database, as two workers have it."""
    url = new_database(postgres)
    with_one = Store.open(url, options=ONLY_RANDOM)
    with_other = Store.open(url, options=ONLY_RANDOM)
    yield with_one, with_other
    with_one.close()
    with_other.close()
    drop_database(url)


class Meanwhile:
    """Lets something happen in another process just before a function is called: the first time only.

    It goes on when that is done, or waits for a lock that this transaction holds.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
        self.monkeypatch, self.engine = monkeypatch, store.database.reader
        self.pool = ThreadPoolExecutor(1)
        self.job: Future[Any] | None = None

    def before(self, owner: Any, name: str, action: Callable[[], Any]) -> None:
        original = getattr(owner, name)

        def first_the_other(*given: Any, **named: Any) -> Any:
            if self.job is None:
                self.job = self.pool.submit(action)
                while not self.job.done() and not self._waits():
                    time.sleep(0.01)
            return original(*given, **named)

        self.monkeypatch.setattr(owner, name, first_the_other)

    def _waits(self) -> bool:
        with self.engine.connect() as connection:
            return bool(connection.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted").scalar_one())

    def result(self) -> Any:
        assert self.job is not None, "it never came to the place where the other was to act"
        return self.job.result(30)


def _retired(store: Store, subject_id: str) -> bool:
    subject = store.subjects.get(subject_id)
    assert subject is not None
    return subject.retired_at is not None


def _sent(store: Store, volunteer: int, subject_id: str, version: int | None = None) -> SentClassification:
    subject = store.subjects.get(subject_id)
    assert subject is not None
    return SentClassification(
        str(uuid.uuid4()), volunteer, subject.id, version or store.workflows.active().id, ARTIFACT, stream=Stream.DIRECT
    )


def _open_ranks(store: Store) -> int:
    """Return how many ranks are marked open though their subject is retired at their round's version, or closed
    though it is not."""
    with store.database.read() as connection:
        query = (
            sa.select(sa.func.count())
            .select_from(ranks)
            .join(rounds, rounds.c.id == ranks.c.round)
            .join(progress, (progress.c.subject == ranks.c.subject) & (progress.c.major == rounds.c.major))
            .where(ranks.c.open != progress.c.retired_at.is_(None))
        )
        return int(connection.execute(query).scalar_one())


# ---- the writer ----------------------------------------------------------------------------------------


def _held_up(store: Store) -> tuple[threading.Event, Future[Any]]:
    """Keep the writer busy until the event is set, so that what comes next waits together."""
    begun, go = threading.Event(), threading.Event()

    def hold(connection: object) -> None:
        begun.set()
        go.wait(30)

    held = store.database.submit(hold)
    assert begun.wait(30)
    return go, held


def test_a_request_given_up_does_not_stop_the_writer(store: Store) -> None:
    """An acknowledged classification is stored: also after another's request was cancelled while it waited."""
    go, _ = _held_up(store)
    given_up = store.database.submit(lambda connection: 1)
    after = store.database.submit(lambda connection: 2)
    given_up.cancel()  # as asyncio does where the request's task is cancelled
    go.set()
    assert after.result(10) == 2
    assert store.database.submit(lambda connection: 3).result(10) == 3


def test_what_one_person_does_wrong_does_not_cost_the_others_their_group(store: Store) -> None:
    """Group commit: refusals (an undo of nobody's classification) leave the rest in few transactions."""
    fill_store(store, 3)
    one = store.people.anonymous(NOW)
    commits: list[int] = []
    sa.event.listen(store.database.writer, "commit", lambda connection: commits.append(1))
    go, _ = _held_up(store)
    wrong = [
        store.database.submit(lambda c: store.classifications._undo(c, str(uuid.uuid4()), one.id, NOW)) for _ in "abc"
    ]
    right = [store.database.submit(lambda c: 1) for _ in range(40)]
    go.set()
    assert [job.result(30) for job in right] == [1] * 40
    assert all(isinstance(job.exception(30), GreenpeaError) for job in wrong)
    assert len(commits) <= 8


def test_nobody_waits_for_statistics(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL counts what its tables hold beside the thread that writes, however long it takes."""
    url = new_database(postgres)
    store = Store.open(url)
    begun, end = threading.Event(), threading.Event()
    monkeypatch.setattr(store.database, "analyze", lambda: (begun.set(), end.wait(30)))
    store.database._look_after = store.database._commits + 1
    store.people.anonymous(NOW)
    assert begun.wait(20)
    with ThreadPoolExecutor(1) as threads:
        one = threads.submit(store.people.anonymous, NOW).result(20)
        assert not end.is_set()
        end.set()
    assert store.people.get(one.id) is not None
    store.close()
    drop_database(url)


def test_closing_while_jobs_come_answers_each(database: str) -> None:
    """`close` writes what is queued; what comes later hears that the store is closed; nobody waits for ever."""
    for _ in range(5):
        store = Store.open(database)
        answers: list[str] = []

        def ask(store: Store = store, answers: list[str] = answers) -> None:
            for _ in range(200):
                try:
                    answers.append(str(store.database.submit(lambda connection: 1).result(30)))
                except GreenpeaError as error:
                    answers.append(str(error))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        store.close()
        for thread in threads:
            thread.join(60)
        assert len(answers) == 800
        assert set(answers) <= {"1", "the store is closed"}


def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    """What cannot be written is an error to whoever sent it; once there is room again, it can be sent again."""
    store = fill_store(Store.open(tmp_path / "store.sqlite"), 3)
    one = store.people.anonymous(NOW)

    def room(connection: sa.Connection, pages: int) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    store.database.write(lambda connection: room(connection, 1))
    sent = [replace(_sent(store, one.id, f"s{i}"), metadata={"text": "x" * 50_000}) for i in range(3)]
    with pytest.raises(sa.exc.OperationalError, match="full"):
        store.classifications.submit(sent, NOW)
    assert not store.healthy(NOW)["writable"] or store.classifications.recount() == 0
    store.database.write(lambda connection: room(connection, 2**30))
    assert [receipt.again for receipt in store.classifications.submit(sent, NOW)] == [False] * 3
    assert store.classifications.recount() == 0
    store.close()


def test_a_lock_held_too_long_is_told_and_survived(tmp_path: Path) -> None:
    """Another program that keeps SQLite's write lock costs an error, and nothing once it lets go."""
    store = fill_store(Store.open(tmp_path / "store.sqlite"), 3)
    one = store.people.anonymous(NOW)
    store.database.write(lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout = 50"))
    sent = [_sent(store, one.id, f"s{i}") for i in range(3)]
    other = Store.open(tmp_path / "store.sqlite")
    go, held = _held_up(other)
    with pytest.raises(sa.exc.OperationalError, match="locked"):
        store.classifications.submit(sent, NOW)
    go.set()
    held.result(30)
    assert [receipt.counted for receipt in store.classifications.submit(sent, NOW)] == [Counted.YES] * 3
    store.close()
    other.close()


def test_a_lost_connection_is_made_anew(pair: tuple[Store, Store]) -> None:
    """PostgreSQL was restarted: the next write and the next read work, without a restart of the site."""
    store, other = pair
    fill_store(store, 4)
    one = store.people.anonymous(NOW)
    classify(store, one.id, "s0")

    def cut(connection: sa.Connection) -> None:
        connection.exec_driver_sql(
            # and waits until they are gone: a connection that dies while it is in use is another story
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND datname = current_database()"
        )

    other.database.write(cut)
    assert classify(store, one.id, "s1").counted is Counted.YES
    assert store.classifications.recount() == 0

    # In the midst of a transaction: whoever waited hears of it or is served, and the writer goes on.
    go, held = _held_up(store)
    queued = store.database.submit(lambda connection: connection.exec_driver_sql("SELECT 1").scalar_one())
    other.database.write(cut)
    go.set()
    held.exception(30)
    assert queued.result(30) == 1
    assert classify(store, one.id, "s2").counted is Counted.YES
    assert store.classifications.recount() == 0


@pytest.mark.parametrize("times", [1, 2, 3])
def test_many_may_open_a_new_store_at_once(database: str, times: int) -> None:
    """Several workers start together on a new database: it is set up once, and all of them go on."""
    barrier = threading.Barrier(4)

    def open_it() -> bytes:
        barrier.wait()
        store = Store.open(database)
        secret = store.secret
        store.close()
        return secret

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(open_it) for _ in range(4)]
        assert len({job.result(60) for job in jobs}) == 1


# ---- counts once, with two workers ---------------------------------------------------------------------


def test_two_workers_undoing_the_same_uncount_it_once(
    pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Undo un-counts once: a retry through another worker changes nothing more."""
    store, other = pair
    fill_store(store, 1)
    one, two = store.people.anonymous(NOW), store.people.anonymous(NOW)
    sent = _sent(store, one.id, "s0")
    store.classifications.submit([sent, _sent(store, two.id, "s0")], NOW)
    meanwhile = Meanwhile(monkeypatch, store)
    meanwhile.before(taking, "uncount", lambda: other.classifications.undo(sent.uuid, one.id, NOW))
    store.classifications.undo(sent.uuid, one.id, NOW)
    meanwhile.result()
    assert store.classifications.recount() == 0
    assert store.subjects.get("s0").classifications == 1  # type: ignore[union-attr]


def test_a_ban_and_an_undo_at_once_uncount_once(pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters equal a recount: a moderator's ban and the volunteer's undo meet on one classification."""
    store, other = pair
    fill_store(store, 1)
    one, two = store.people.anonymous(NOW), store.people.anonymous(NOW)
    sent = _sent(store, one.id, "s0")
    store.classifications.submit([sent, _sent(store, two.id, "s0")], NOW)
    meanwhile = Meanwhile(monkeypatch, store)
    meanwhile.before(taking, "uncount", lambda: other.classifications.undo(sent.uuid, one.id, NOW))
    store.people.ban(one.id, NOW, recount=True)
    meanwhile.result()
    assert store.classifications.recount() == 0


def test_a_ban_while_the_volunteer_votes_takes_that_vote_too(
    pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moderator can ban a volunteer and recount without them: also without the vote that arrives right then."""
    store, other = pair
    fill_store(store, 2)
    one = store.people.anonymous(NOW)
    meanwhile = Meanwhile(monkeypatch, store)
    meanwhile.before(identities, "add_to_counts", lambda: other.people.ban(one.id, NOW, recount=True))
    store.classifications.submit([_sent(store, one.id, "s0")], NOW)
    meanwhile.result()
    assert store.classifications.recount() == 0
    assert store.statistics.overview(NOW).counted == 0


def test_what_arrives_during_a_merge_follows_and_counts_once(
    pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One counted classification per volunteer and subject, though the anonymous half arrives during the merge."""
    store, other = pair
    fill_store(store, 2)
    account, one = store.people.sign_up("Ada", PASSWORD, NOW), store.people.anonymous(NOW)
    classify(store, account.id, "s0")
    meanwhile = Meanwhile(monkeypatch, store)
    meanwhile.before(identities, "add_to_counts", lambda: other.people.merge(one.id, account.id, NOW))
    store.classifications.submit([_sent(store, one.id, "s0")], NOW)
    meanwhile.result()
    assert store.classifications.recount() == 0
    assert {stored.volunteer.id for stored in store.classifications.stream()} == {account.id}
    assert store.statistics.overview(NOW).counted == 1


def test_the_account_votes_during_a_merge(pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Merge and submit meet on one subject: neither fails, and one of the two counts."""
    store, other = pair
    fill_store(store, 2)
    account, one = store.people.sign_up("Ada", PASSWORD, NOW), store.people.anonymous(NOW)
    classify(store, one.id, "s0")
    meanwhile = Meanwhile(monkeypatch, store)
    sent = _sent(other, account.id, "s0")
    meanwhile.before(people, "_move", lambda: other.classifications.submit([sent], NOW))
    assert store.people.merge(one.id, account.id, NOW) == 1
    assert meanwhile.result()[0].counted in (Counted.YES, Counted.REPEATED)
    assert store.classifications.recount() == 0
    assert store.statistics.overview(NOW).counted == 1


def test_one_uuid_for_two_subjects_at_once_is_refused(
    pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A uuid used for two subjects through two workers at once: one is stored, the other refused, none fails."""
    store, other = pair
    fill_store(store, 2)
    one = store.people.anonymous(NOW)
    first = _sent(store, one.id, "s0")
    second = replace(_sent(other, one.id, "s1"), uuid=first.uuid)
    meanwhile = Meanwhile(monkeypatch, store)
    meanwhile.before(taking, "_row", lambda: other.classifications.submit([second], NOW))
    receipts = store.classifications.submit([first], NOW) + meanwhile.result()
    assert sorted(receipt.error is None for receipt in receipts) == [False, True]


def test_a_recount_while_people_vote_is_of_one_state(
    pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`recount` compares counters and classifications on one state of the database: 0, always."""
    store, other = pair
    fill_store(store, 2)
    one = store.people.anonymous(NOW)
    sent = _sent(other, one.id, "s0")
    meanwhile = Meanwhile(monkeypatch, store)
    meanwhile.before(taking.counters, "open_pools", lambda: other.classifications.submit([sent], NOW))
    store.workflows.publish(workflow(1), NOW)
    differences = store.classifications.recount()
    meanwhile.result()
    assert differences == 0


# ---- workflows, with two workers -----------------------------------------------------------------------


def test_two_who_publish_at_once_leave_one_active(pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly one version is active, whatever two people publish in one moment; the second is told."""
    store, other = pair
    fill_store(store, 2)
    tree = workflow(tree="gz2")
    meanwhile = Meanwhile(monkeypatch, store)
    meanwhile.before(workflows, "_activate", lambda: _told(lambda: other.workflows.publish(tree, NOW)))
    told = _told(lambda: store.workflows.publish(workflow(7), NOW))
    told_other = meanwhile.result()
    with store.database.read() as connection:
        active = connection.exec_driver_sql("SELECT count(*) FROM versions WHERE active").scalar_one()
    assert active == 1
    fresh = Store.open(store.database.writer.url.render_as_string(hide_password=False))
    versions = fresh.workflows.all()
    assert fresh.workflows.active().id == versions[0].id
    fresh.close()
    assert sum(one is None for one in (told, told_other)) >= 1


def _told(action: Callable[[], Any]) -> str | None:
    """Return what a person is told, or None where it worked."""
    try:
        action()
    except GreenpeaError as error:
        return str(error)
    return None


def test_two_transactions_that_activate_leave_one_active(
    pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, where both transactions are under way at once."""
    store, other = pair
    fill_store(store, 2)
    tree = workflow(tree="gz2")
    go, held = _held_up(other)  # so that the other's transaction begins when this one has not ended
    meanwhile = Meanwhile(monkeypatch, store)
    job = ThreadPoolExecutor(1).submit(lambda: _told(lambda: other.workflows.publish(tree, NOW)))

    def overtake() -> None:
        go.set()
        held.result(30)

    original = workflows._activate

    def activate(connection: sa.Connection, *given: Any) -> None:
        original(connection, *given)
        if given[2] == 1:
            overtake()
            while not job.done() and not meanwhile._waits():
                time.sleep(0.01)

    monkeypatch.setattr(workflows, "_activate", activate)
    _told(lambda: store.workflows.publish(workflow(7), NOW))
    job.result(30)
    with store.database.read() as connection:
        active = connection.exec_driver_sql("SELECT count(*) FROM versions WHERE active").scalar_one()
    assert active == 1


def test_a_limit_raised_during_a_vote_holds_for_it(pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Raising a limit un-retires: a vote that was on its way does not retire by the old limit."""
    store, other = pair
    fill_store(store, 1, limit=1)
    one = store.people.anonymous(NOW)
    sent = _sent(store, one.id, "s0")
    meanwhile = Meanwhile(monkeypatch, store)
    meanwhile.before(taking, "_locked", lambda: other.workflows.publish(workflow(5), NOW))
    store.classifications.submit([sent], NOW)
    meanwhile.result()
    assert not _retired(store, "s0")


def test_subjects_added_while_a_workflow_is_published_belong_to_it(
    pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subject imported while a new major version is published can be classified on it."""
    store, other = pair
    fill_store(store, 2)
    meanwhile = Meanwhile(monkeypatch, store)
    meanwhile.before(adding.counters, "start", lambda: other.workflows.publish(workflow(tree="gz2"), NOW))
    store.subjects.add([NewSubject("late", ("",))], NOW, 0)
    meanwhile.result()
    store.workflows._active = None
    assert store.workflows.active().major == 2
    assert store.subjects.get("late") is not None


def test_two_imports_at_once_both_arrive(pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two people import subjects at the same time: all are there, with places of their own."""
    store, other = pair
    fill_store(store, 2)
    meanwhile = Meanwhile(monkeypatch, store)
    meanwhile.before(adding.counters, "start", lambda: other.subjects.add([NewSubject("b", ("",))], NOW, 0))
    store.subjects.add([NewSubject("a", ("",))], NOW, 0)
    meanwhile.result()
    assert {one.subject_id for one in store.subjects.browse()[0]} == {"a", "b", "s0", "s1"}
    assert store.classifications.recount() == 0


def _die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_change_of_the_limit_is_finished(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raising a limit un-retires, though the process dies amid it: publishing again (or opening) goes on with it."""
    fill_store(store, 3, limit=1)
    one = store.people.anonymous(NOW)
    for i in range(3):
        classify(store, one.id, f"s{i}")

    with monkeypatch.context() as patched:
        patched.setattr(workflows, "_reconsider", _die)
        with pytest.raises(KeyboardInterrupt):
            store.workflows.publish(workflow(5), NOW)
    fresh = Store.open(store.database.writer.url.render_as_string(hide_password=False))
    fresh.workflows.publish(workflow(5), NOW)  # as `serve` does with the campaign's file
    assert not any(_retired(fresh, f"s{i}") for i in range(3))
    fresh.close()


# ---- ranks ---------------------------------------------------------------------------------------------


def _two_majors(database: str) -> tuple[Store, int, int]:
    """Return a store at major version 2 with a round for it, and a version id of 1 and a volunteer."""
    store = fill_store(Store.open(database, options=ONLY_RANKS), 3, limit=1)
    old = store.workflows.active().id
    store.workflows.publish(workflow(1, tree="gz2"), NOW)
    round = store.rounds.create("model", 0, {}, NOW)
    store.rounds.publish(round, [("s0", 3.0), ("s1", 2.0), ("s2", 1.0)])
    store.rounds.activate(round, NOW)
    return store, old, store.people.anonymous(NOW).id


GZ2_ARTIFACT = {"smooth-or-featured": ["artifact"]}


def test_a_late_vote_on_an_old_version_closes_no_rank_of_the_new(database: str) -> None:
    """Votes stay with the version they were cast on: a retirement there leaves the new version's ranks open."""
    store, old, one = _two_majors(database)
    assert store.classifications.submit([_sent(store, one, "s0", old)], NOW)[0].retired == "count"
    assert not _retired(store, "s0")
    assert _open_ranks(store) == 0
    handed = store.queue.next(store.people.anonymous(NOW).id, 1, NOW)
    assert handed[0].subject.subject_id == "s0"
    store.close()


def test_an_undo_on_an_old_version_opens_no_rank_of_the_new(database: str) -> None:
    """A subject that retired at the active version is not handed out for a change at an earlier one."""
    store, old, one = _two_majors(database)
    sent = _sent(store, one, "s0", old)
    store.classifications.submit([sent], NOW)
    store.rounds.retire({"s0": "known enough"}, NOW)
    store.classifications.undo(sent.uuid, one, NOW)
    assert _retired(store, "s0")
    assert _open_ranks(store) == 0
    handed = store.queue.next(store.people.anonymous(NOW).id, 3, NOW)
    assert "s0" not in {one.subject.subject_id for one in handed}
    store.close()


def test_a_round_of_an_earlier_version_ranks_nothing_that_has_retired(database: str) -> None:
    """Ranks of version 1 still switched on at version 2 never hand out what has retired at 2."""
    store = fill_store(Store.open(database, options=ONLY_RANKS), 3, limit=1)
    first = store.people.anonymous(NOW).id
    sent = _sent(store, first, "s0")
    round = store.rounds.create("model", 0, {}, NOW)
    store.rounds.publish(round, [("s0", 3.0), ("s1", 2.0), ("s2", 1.0)])
    store.rounds.activate(round, NOW)
    store.classifications.submit([sent], NOW)
    store.workflows.publish(workflow(1, tree="gz2"), NOW)
    store.rounds.retire({"s0": "known enough"}, NOW)
    store.classifications.undo(sent.uuid, first, NOW)  # opens s0 at version 1
    handed = store.queue.next(store.people.anonymous(NOW).id, 3, NOW)
    assert "s0" not in {one.subject.subject_id for one in handed}
    store.close()


def test_a_round_being_written_again_cannot_be_activated(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round's membership change is atomic: half a round never ranks the queue."""
    fill_store(store, 3)
    round = store.rounds.create("model", 0, {}, NOW)
    store.rounds.publish(round, [("s0", 1.0), ("s1", 0.5)])
    with monkeypatch.context() as patched:
        patched.setattr("greenpea.store.rounds._publish", _die)
        with pytest.raises(KeyboardInterrupt):
            store.rounds.publish(round, [("s0", 1.0), ("s1", 0.5)])
    with pytest.raises(GreenpeaError, match="not complete"):
        store.rounds.activate(round, NOW)


def test_any_number_of_subjects_retires_at_once(store: Store) -> None:
    """A round may retire more subjects than a statement takes parameters."""
    fill_store(store, 2)
    reasons = {f"x{i}": "known enough" for i in range(70_000)} | {"s1": "known enough"}
    assert store.rounds.retire(reasons, NOW) == 1


# ---- handing out ---------------------------------------------------------------------------------------


def test_work_that_joins_an_account_is_not_handed_out_again(store: Store) -> None:
    """Never the same image twice: what one half held and the other had classified is not handed out after a merge."""
    fill_store(store, 1)
    account, one = store.people.sign_up("Ada", PASSWORD, NOW), store.people.anonymous(NOW)
    assert classify(store, account.id, "s0").counted is Counted.YES
    assert len(store.queue.next(one.id, 1, NOW)) == 1
    store.people.merge(one.id, account.id, NOW)
    assert store.queue.next(account.id, 1, NOW, holding=[]) == []


def test_what_was_classified_without_its_hand_out_is_not_handed_out_again(store: Store) -> None:
    """Never the same image twice: it counts as seen, by whichever way it was classified."""
    fill_store(store, 1)
    one = store.people.anonymous(NOW)
    assert len(store.queue.next(one.id, 1, NOW)) == 1
    assert classify(store, one.id, "s0").counted is Counted.YES
    assert store.queue.next(one.id, 1, NOW, holding=[]) == []


def test_two_leases_of_one_person_on_a_subject_end_together(store: Store) -> None:
    """A lease is counted until its classification: after a merge no second one stays open on the same subject."""
    fill_store(store, 1, limit=2)
    account, one = store.people.sign_up("Ada", PASSWORD, NOW), store.people.anonymous(NOW)
    handed = [store.queue.next(who.id, 1, NOW)[0] for who in (account, one)]
    store.people.merge(one.id, account.id, NOW)
    store.classifications.submit([artifact(handed[0])], NOW)
    assert len(store.queue.next(store.people.anonymous(NOW).id, 1, NOW)) == 1


def test_a_refused_classification_keeps_its_lease(store: Store) -> None:
    """A place is kept until it is classified or expires: an unfinished walk that is refused does not give it away."""
    fill_store(store, 1, limit=1)
    one, two = store.people.anonymous(NOW), store.people.anonymous(NOW)
    handed = store.queue.next(one.id, 1, NOW)[0]
    assert store.classifications.submit([sending(handed, {})], NOW)[0].error
    assert store.queue.next(two.id, 1, NOW) == []


def test_nobody_closes_another_persons_lease(store: Store) -> None:
    """A lease ends by its own volunteer's classification of its own subject only."""
    fill_store(store, 2, limit=1)
    one, two = store.people.anonymous(NOW), store.people.anonymous(NOW)
    mine, theirs = store.queue.next(one.id, 1, NOW)[0], store.queue.next(two.id, 1, NOW)[0]
    store.classifications.submit([replace(artifact(mine), handout=theirs.id)], NOW)
    with store.database.read() as connection:
        closed = connection.execute(sa.select(handouts.c.closed_at).where(handouts.c.id == theirs.id)).scalar_one()
    assert closed is None


def test_what_has_just_retired_is_not_handed_out(pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Open hand-outs and counted classifications never exceed the limit, though a vote comes in between."""
    store, other = pair
    fill_store(store, 1, limit=1)
    one, two = store.people.anonymous(NOW), store.people.anonymous(NOW)
    sent = _sent(other, two.id, "s0")
    meanwhile = Meanwhile(monkeypatch, store)
    meanwhile.before(queue._Handing, "_give_up_taken", lambda: other.classifications.submit([sent], NOW))
    handed = store.queue.next(one.id, 1, NOW)
    assert meanwhile.result()[0].retired == "count"
    assert handed == []


def test_two_tabs_on_two_workers_get_different_subjects(
    pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is asked twice: not even where two of their requests meet two workers in one moment."""
    store, other = pair
    fill_store(store, 1)
    one = store.people.anonymous(NOW)
    meanwhile = Meanwhile(monkeypatch, store)
    meanwhile.before(queue._Handing, "_choose", lambda: other.queue.next(one.id, 1, NOW))
    here = store.queue.next(one.id, 1, NOW)
    there = meanwhile.result()
    assert len(here) + len(there) == 1


def test_a_subject_in_another_transaction_is_not_called_seen(pair: tuple[Store, Store]) -> None:
    """“You have seen everything” is honest: the last open subject, in use for a moment, is not passed over."""
    store, other = pair
    fill_store(store, 1)
    one = store.people.anonymous(NOW)
    begun, go = threading.Event(), threading.Event()

    def vote(connection: sa.Connection) -> None:
        connection.execute(sa.select(progress).with_for_update())
        begun.set()
        go.wait(30)

    held = other.database.submit(vote)
    assert begun.wait(30)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(store.queue.next, one.id, 1, NOW)
        wait([asked], timeout=0.3)  # it may wait for the lock, or try again: either way it comes to an end
        go.set()
        held.result(30)
        assert len(asked.result(30)) == 1


# ---- people --------------------------------------------------------------------------------------------


def test_what_was_undone_while_banned_stays_undone(store: Store) -> None:
    """Undo is a tombstone: lifting a ban does not count what the volunteer took back."""
    fill_store(store, 1)
    one = store.people.anonymous(NOW)
    sent = _sent(store, one.id, "s0")
    store.classifications.submit([sent], NOW)
    store.people.ban(one.id, NOW, recount=True)
    assert store.classifications.undo(sent.uuid, one.id, NOW).counted is Counted.UNDONE
    assert store.classifications.submit([sent], NOW)[0].counted is Counted.UNDONE
    assert store.people.unban(one.id, NOW) == 0
    assert store.statistics.overview(NOW).counted == 0


def test_undoing_a_repeated_classification_says_so_ever_after(store: Store) -> None:
    """Undo is a tombstone, and a resend of it says so: also of one that was not counted."""
    fill_store(store, 1)
    one = store.people.anonymous(NOW)
    classify(store, one.id, "s0")
    sent = _sent(store, one.id, "s0")
    assert store.classifications.submit([sent], NOW)[0].counted is Counted.REPEATED
    assert store.classifications.undo(sent.uuid, one.id, NOW).counted is Counted.UNDONE
    assert store.classifications.submit([sent], NOW)[0].counted is Counted.UNDONE
    assert store.statistics.overview(NOW).counted == 1


def _fill_quickly(store: Store, number: int, volunteer: int) -> None:
    """Add subjects, each counted once by one volunteer, in few statements."""
    version = store.workflows.active()
    tally = '{"smooth-or-featured": 1, "smooth-or-featured/artifact": 1}'
    annotations = '{"smooth-or-featured": ["artifact"]}'
    series = (
        f"SELECT n FROM generate_series(1, {number}) AS g(n)"
        if store.database.kind == "postgresql"
        else f"WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < {number}) SELECT n FROM g"
    )
    statements = [
        f"INSERT INTO subjects (id, subject_id, images, metadata, pool, place, created_at) "
        f"SELECT n, 'q' || n, '[\"\"]', '{{}}', 'main', n - 1, 0 FROM ({series}) AS s",
        f"INSERT INTO progress (major, subject, pool, place, classifications, tally) "
        f"SELECT {version.major}, n, 'main', n - 1, 1, '{tally}' FROM ({series}) AS s",
        f"INSERT INTO classifications (uuid, volunteer, subject, major, version, annotations, counted, "
        f"after_retirement, stream, received_at, metadata) SELECT 'q' || n, {volunteer}, n, {version.major}, "
        f"{version.id}, '{annotations}', 'counted', false, 'random', 0, '{{}}' FROM ({series}) AS s",
        f"INSERT INTO pools (major, pool, total, open) VALUES ({version.major}, 'main', {number}, {number})",
        f"UPDATE volunteers SET count = {number} WHERE id = {volunteer}",
    ]

    def write(connection: sa.Connection) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement)

    store.database.write(write)


def test_a_volunteer_with_very_many_classifications_can_be_banned(store: Store) -> None:
    """A moderator can ban and recount without them: those with most classifications above all."""
    store.workflows.publish(workflow(), NOW)
    one = store.people.anonymous(NOW)
    number = 70_000  # more than a statement takes parameters
    if store.database.kind == "sqlite":
        number = 12_000
        with store.database.writer.connect() as connection:
            raw: Any = connection.connection.driver_connection
            raw.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 10_000)
    _fill_quickly(store, number, one.id)
    assert store.people.ban(one.id, NOW, recount=True) == number
    assert store.classifications.recount() == 0
    assert store.people.unban(one.id, NOW) == number
    assert store.classifications.recount() == 0


def test_a_deleted_persons_name_is_nowhere(store: Store) -> None:
    """Names go, anonymous counts stay: also the name beside the workflows they published."""
    fill_store(store, 1)
    store.people.sign_up("Grace", PASSWORD, NOW, role=Role.OWNER)
    ada = store.people.sign_up("Ada Lovelace", PASSWORD, NOW, email="ada@example.org", role=Role.OWNER)
    store.workflows.publish(workflow(3), NOW, author="Ada Lovelace")
    classify(store, ada.id, "s0")
    store.finds.flag(str(uuid.uuid4()), ada.id, 1, "green, says Ada Lovelace", NOW)
    store.people.open_session(ada.id, NOW)
    store.people.delete(ada.id, NOW)
    with store.database.read() as connection:
        for table in sa.inspect(connection).get_table_names():
            text = str(connection.exec_driver_sql(f"SELECT * FROM {table}").all()).casefold()
            assert "lovelace" not in text, table
            assert "ada@example" not in text, table


def test_a_deleted_person_is_nobody_to_sign_up_or_merge(store: Store) -> None:
    """Forgotten is forgotten: an old cookie does not tie a deleted person's work to a new account."""
    fill_store(store, 2)
    ada = store.people.sign_up("Ada", PASSWORD, NOW)
    classify(store, ada.id, "s0")
    store.people.delete(ada.id, NOW)
    again = store.people.sign_up("Ada", PASSWORD, NOW, anonymous=ada.id)
    assert again.id != ada.id
    assert store.people.merge(ada.id, again.id, NOW) == 0


def test_two_owners_who_resign_at_once_leave_one(pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign keeps an owner, though two give the role up in one moment on two workers."""
    store, other = pair
    ada, grace = (store.people.sign_up(name, PASSWORD, NOW, role=Role.OWNER) for name in ("Ada", "Grace"))
    original = people.update
    job: list[Future[Any]] = []
    pool = ThreadPoolExecutor(1)
    meanwhile = Meanwhile(monkeypatch, store)

    def update(table: Any) -> Any:
        if not job:
            job.append(pool.submit(lambda: _told(lambda: other.people.set_role(grace.id, Role.VOLUNTEER))))
            while not job[0].done() and not meanwhile._waits():
                time.sleep(0.01)
        return original(table)

    monkeypatch.setattr(people, "update", update)
    _told(lambda: store.people.set_role(ada.id, Role.VOLUNTEER))
    job[0].result(30)
    assert store.people.owners() == 1


def test_two_sign_ups_from_one_cookie_make_two_accounts(
    pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that was given is kept: a second form sent at once does not overwrite it."""
    store, other = pair
    one = store.people.anonymous(NOW)
    meanwhile = Meanwhile(monkeypatch, store)
    meanwhile.before(people, "update", lambda: other.people.sign_up("Grace", PASSWORD, NOW, anonymous=one.id))
    store.people.sign_up("Ada", PASSWORD, NOW, anonymous=one.id)
    meanwhile.result()
    assert store.people.by_name("Grace") is not None
    assert store.people.by_name("Ada") is not None


# ---- whatever is sent ----------------------------------------------------------------------------------

BEYOND = datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-12)))
BEFORE = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))
ONE = uuid.UUID("5b48d516-5a51-47cb-96c7-efc32fb9fbea")


@pytest.mark.parametrize(
    "changes",
    [
        {"finished_at": BEYOND},
        {"started_at": BEFORE},
        {"started_at": datetime(2026, 1, 1)},
        {"metadata": {"z": float("nan")}},
        {"metadata": {"half": "\ud83d"}},
        {"uuid": "-" * 100 + ONE.hex},
        {"uuid": f"urn:uuid:{{{ONE}}}" + "-" * 60},
        {"subject": 2**70},
        {"volunteer": -(2**70)},
        {"version": 2**40},
        {"handout": 2**70},
        {"round": 2**40},
        {"probability": float("nan")},
        {"annotations": {"smooth-or-featured": 5}},
        {"annotations": {"smooth-or-featured": {"artifact": 1}}},
        {"annotations": {"smooth-or-featured": [["artifact"]]}},
    ],
    ids=str,
)
def test_one_odd_submission_spoils_neither_its_neighbours_nor_what_reads_them(
    store: Store, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """What cannot be kept is refused by its receipt; whatever is kept can be listed, exported and backed up."""
    fill_store(store, 3)
    one = store.people.anonymous(NOW)
    good = [_sent(store, one.id, f"s{i}") for i in (0, 2)]
    odd = replace(_sent(store, one.id, "s1"), **changes)
    receipts = store.classifications.submit([good[0], odd, good[1]], NOW)
    assert [receipts[0].counted, receipts[2].counted] == [Counted.YES] * 2
    assert (receipts[1].counted is None) == (receipts[1].error is not None)
    assert len(list(store.classifications.stream())) == sum(receipt.counted is not None for receipt in receipts)
    backup.write(store.database, tmp_path / "backup.zip", NOW)
    assert store.classifications.recount() == 0


LONG = "ﷺ" * 40  # a name of 40 letters whose compatible form has 720


def _odd_import(store: Store) -> Any:
    found = [Classification("u" * 100, "s0", "v" * 400, ARTIFACT), Classification("good", "s0", "ada", ARTIFACT)]
    report = store.classifications.import_(found, NOW)
    if report.stored != 1 or len(report.refused) != 1:
        raise AssertionError(f"the good one is stored, the other refused: {report}")
    raise GreenpeaError("as it should be")


@pytest.mark.parametrize(
    "action",
    [
        lambda s: s.people.sign_up(LONG, PASSWORD, NOW),
        lambda s: s.people.sign_up("Ada", PASSWORD, NOW, email="a" * 400),
        lambda s: s.people.sign_up("Ada", PASSWORD, NOW, email="ß" * 300),
        lambda s: s.people.settings(1, email="a" * 400),
        lambda s: s.subjects.add([NewSubject("a" * 600, ("",))], NOW),
        lambda s: s.subjects.add([NewSubject("a\0b", ("",))], NOW),
        lambda s: s.subjects.add([NewSubject("nan", ("",), {"z": float("nan")})], NOW),
        lambda s: s.people.favourite(1, 999, True, NOW),
        lambda s: s.finds.like(1, 999, True),
        lambda s: s.finds.flag("x" * 100, 1, 1, "", NOW),
        lambda s: s.finds.flag("x\0", 1, 1, "", NOW),
        lambda s: s.rounds.create("m" * 101, 1, {}, NOW),
        lambda s: s.rounds.create("m", 2**63, {}, NOW),
        lambda s: s.rounds.publish(99, [("s0", 1.0)]),
        lambda s: s.rounds.publish(s.rounds.create("m", 1, {}, NOW), [("s0", float("nan"))]),
        lambda s: s.rounds.retire({"s0": "r" * 300}, NOW),
        lambda s: s.workflows.publish(workflow(9), NOW, author="a" * 300),
        _odd_import,
    ],
    ids=lambda action: "",
)
def test_what_does_not_fit_is_refused_in_words_on_either_database(store: Store, action: Callable[[Store], Any]) -> None:
    """Errors a person can cause are GreenpeaError, and the same on SQLite and PostgreSQL."""
    fill_store(store, 1)
    one = store.people.anonymous(NOW)
    store.finds.flag(str(uuid.uuid4()), one.id, 1, "", NOW)
    with pytest.raises(GreenpeaError):
        action(store)


def test_filters_with_odd_characters_find_nothing(store: Store) -> None:
    """A NUL or half a character in a filter finds nothing, on either database."""
    fill_store(store, 1)
    assert store.subjects.browse(reason="\0") == ([], None)
    assert store.subjects.by_number(2**70) is None
    assert store.people.session("\ud800", NOW) is None


# ---- everything at once --------------------------------------------------------------------------------

THREADS, STEPS, CONTESTED = 8, 25, 6


def _crowd(url: str, seed: int, everybody: list[int], accounts: list[int], told: Pipe) -> None:
    """One process of a stress test: threads that ask, classify, undo, join accounts, ban and lift bans.

    Both processes act for the same people with the same uuids, as a page does that retries through another worker.
    """
    store = Store.open(url)
    version, failures = store.workflows.active().id, []

    def sent(rng: random.Random, volunteer: int) -> SentClassification:
        subject = rng.randint(1, CONTESTED)
        id = uuid.uuid5(uuid.NAMESPACE_OID, f"{volunteer} {subject} {rng.randint(1, 30)}")
        return SentClassification(str(id), volunteer, subject, version, ARTIFACT)

    def act(rng: random.Random) -> None:
        one, dice = rng.choice(everybody), rng.random()
        if dice < 0.2:
            handed = store.queue.next(one, 2, NOW, holding=rng.choice([None, [], [1]]))
            store.classifications.submit([artifact(each) for each in handed], NOW)
        elif dice < 0.6:
            store.classifications.submit([sent(rng, one) for _ in range(rng.randint(1, 3))], NOW)
        elif dice < 0.9:
            mine = [each for each in store.classifications.of_volunteer(one) if each.counted is Counted.YES]
            store.classifications.undo(mine[0].uuid if mine else sent(rng, one).uuid, one, NOW)
        elif dice < 0.94:
            store.people.ban(one, NOW, rng.random() < 0.7)
            store.people.unban(one, NOW)
        elif dice < 0.98:
            store.people.unban(one, NOW)
        else:
            store.people.merge(one, rng.choice(accounts), NOW)

    def volunteer(number: int) -> None:
        rng = random.Random(seed * 100 + number)
        for _ in range(STEPS):
            try:
                act(rng)
            except GreenpeaError:  # such as: nothing of yours to undo
                pass
            except Exception as error:
                failures.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=volunteer, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    told.send(failures)


def test_two_processes_doing_everything_at_once_keep_every_promise(database: str) -> None:
    """Counters equal a recount, nobody counts twice, nothing fails, ranks follow retirement."""
    store = fill_store(Store.open(database), 60, limit=6, audit_share=0.2)
    round = store.rounds.create("model", 0, {}, NOW)
    store.rounds.publish(round, [(f"s{i}", 1.0) for i in range(30)])
    store.rounds.activate(round, NOW)
    everybody = [store.people.anonymous(NOW).id for _ in range(3)]
    accounts = [store.people.sign_up(name, PASSWORD, NOW).id for name in ("Ada", "Grace")]
    everybody += accounts
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for seed in range(2):
        here, there = spawn.Pipe(duplex=False)
        processes.append(spawn.Process(target=_crowd, args=(database, seed, everybody, accounts, there)))
        pipes.append(here)
        processes[-1].start()
    for limit in (3, 9, 6):
        store.workflows.publish(workflow(limit), NOW)
    failures = [failure for pipe in pipes for failure in pipe.recv()]
    for process in processes:
        process.join(60)
    assert failures == []
    assert store.classifications.recount() == 0
    assert _open_ranks(store) == 0
    live = Counter((one.volunteer.id, one.subject) for one in store.classifications.stream(counted_only=True))
    assert set(live.values()) <= {1}
    rules = store.workflows.active().workflow.retirement
    assert rules == workflow(6).retirement
    for subject in store.subjects.browse(limit=100)[0]:
        assert (subject.retired_at is not None) == (subject.classifications >= 6), subject
    store.close()


def test_leases_are_never_overshot_by_two_processes(database: str) -> None:
    """Open hand-outs and counted classifications of a subject never exceed its limit together."""
    stores = [fill_store(Store.open(database, options=ONLY_RANDOM), 10, limit=3), Store.open(database)]

    def volunteer(number: int) -> None:
        store = stores[number % 2]
        one = store.people.anonymous(NOW).id
        for step in range(8):
            handed = store.queue.next(one, 2, NOW)
            if step % 2:
                store.classifications.submit([artifact(each) for each in handed], NOW)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(volunteer, range(16)))
    with stores[0].database.read() as connection:
        open_ones = dict(
            connection.execute(
                sa.select(handouts.c.subject, sa.func.count())
                .where(handouts.c.closed_at.is_(None))
                .group_by(handouts.c.subject)
            ).all()
        )
    for subject in stores[0].subjects.browse(limit=100)[0]:
        assert subject.classifications + open_ones.get(subject.id, 0) <= 3
    assert stores[0].classifications.recount() == 0
    for store in stores:
        store.close()


# ---- kill -9 -------------------------------------------------------------------------------------------


def _write_until_killed(url: str, told: Pipe) -> None:
    """Classify from four threads, and tell each uuid after its acknowledgement."""
    store = Store.open(url)
    lock = threading.Lock()

    def volunteer() -> None:
        one = store.people.anonymous(datetime.now(UTC)).id
        while handed := store.queue.next(one, 2, datetime.now(UTC)):
            for receipt in store.classifications.submit([artifact(each) for each in handed], datetime.now(UTC)):
                with lock:
                    told.send(receipt.uuid)

    for _ in range(4):
        threading.Thread(target=volunteer, daemon=True).start()
    threading.Event().wait()


def test_what_was_acknowledged_survives_kill_9(database: str) -> None:
    """An acknowledged classification survives `kill -9`, in three rounds; the counters equal a recount after each."""
    store = fill_store(Store.open(database), 3000)
    acknowledged: set[str] = set()
    spawn = multiprocessing.get_context("spawn")
    for _ in range(3):
        here, there = spawn.Pipe(duplex=False)
        process = spawn.Process(target=_write_until_killed, args=(database, there))
        process.start()
        there.close()
        wanted = len(acknowledged) + 60
        while len(acknowledged) < wanted:
            acknowledged.add(here.recv())
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        try:
            while True:
                acknowledged.add(here.recv())
        except (EOFError, OSError):
            pass
        kept = [one.uuid for one in store.classifications.stream()]
        assert acknowledged <= set(kept)
        assert len(kept) == len(set(kept))
        assert store.classifications.recount() == 0
    store.close()
