"""The store's promises, each with a test that tries to break it, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import pytest
import sqlalchemy as sa
from argon2 import PasswordHasher
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenpea.classifications import Classification
from greenpea.errors import GreenpeaError
from greenpea.store import Counted, HandOut, NewSubject, QueueOptions, Role, SentClassification, Store, Stream, people
from site_hands import NOW, artifact, classify, fill_store, sending, workflow

SMOOTH = {"smooth-or-featured": ["smooth"], "how-rounded": ["round"], "merging": ["none"], "rare-features": []}
HOUR = timedelta(hours=1)


def _tally(store: Store, subject_id: str) -> dict[str, int]:
    subject = store.subjects.get(subject_id)
    assert subject is not None
    return subject.tally


# ---- counts once -------------------------------------------------------------------------------------


def test_a_classification_counts_every_answer_on_its_walk(store: Store) -> None:
    fill_store(store, 1)
    one = store.people.anonymous(NOW)
    handed = store.queue.next(one.id, 1, NOW)[0]
    receipt = store.classifications.submit([sending(handed, SMOOTH)], NOW)[0]
    assert receipt.counted is Counted.YES
    assert _tally(store, "s0") == {
        "smooth-or-featured": 1,
        "smooth-or-featured/smooth": 1,
        "how-rounded": 1,
        "how-rounded/round": 1,
        "merging": 1,
        "merging/none": 1,
        "rare-features": 1,
    }
    votes = store.classifications.votes()
    assert votes.counts["how-rounded"].tolist() == [[1, 0, 0]]
    assert store.classifications.recount() == 0


def test_sending_again_returns_the_first_answer_and_counts_nothing(store: Store) -> None:
    fill_store(store, 2)
    handed = store.queue.next(store.people.anonymous(NOW).id, 1, NOW)[0]
    sent = artifact(handed)
    first = store.classifications.submit([sent], NOW)[0]
    again = store.classifications.submit([sent, sent], NOW + HOUR)
    assert [one.again for one in again] == [True, True]
    assert {one.counted for one in again} == {first.counted}
    assert _tally(store, handed.subject.subject_id)["smooth-or-featured"] == 1


def test_the_same_id_for_another_subject_or_volunteer_is_refused(store: Store) -> None:
    fill_store(store, 3)
    a, b = store.people.anonymous(NOW), store.people.anonymous(NOW)
    mine = store.queue.next(a.id, 2, NOW)
    sent = artifact(mine[0])
    store.classifications.submit([sent], NOW)
    other = store.classifications.submit([artifact(mine[1], sent.uuid)], NOW)[0]
    theirs = store.classifications.submit([artifact(store.queue.next(b.id, 1, NOW)[0], sent.uuid)], NOW)[0]
    assert other.error
    assert theirs.error
    assert other.counted is theirs.counted is None
    assert len(list(store.classifications.stream())) == 1


def test_a_second_classification_of_a_subject_is_kept_and_not_counted(store: Store) -> None:
    fill_store(store, 1)
    one = store.people.anonymous(NOW)
    assert classify(store, one.id, "s0").counted is Counted.YES
    assert classify(store, one.id, "s0").counted is Counted.REPEATED
    assert len(list(store.classifications.stream())) == 2
    assert _tally(store, "s0")["smooth-or-featured"] == 1


def test_two_quick_posts_at_the_same_moment_count_once(store: Store) -> None:
    fill_store(store, 8)
    one = store.people.anonymous(NOW)
    with ThreadPoolExecutor(8) as pool:
        for subject in range(8):
            receipts = list(pool.map(lambda _, s=subject: classify(store, one.id, f"s{s}"), range(4)))
            assert Counter(r.counted for r in receipts) == {Counted.YES: 1, Counted.REPEATED: 3}
    assert store.classifications.recount() == 0


def test_two_processes_posting_the_same_count_once(database: str) -> None:
    with_one = fill_store(Store.open(database), 6)
    with_other = Store.open(database)
    one = with_one.people.anonymous(NOW)
    sent = [artifact(handed) for handed in with_one.queue.next(one.id, 6, NOW)]
    with ThreadPoolExecutor(12) as pool:
        stores = [with_one, with_other] * 6
        many = [pool.submit(s.classifications.submit, [x], NOW) for x in sent for s in stores]
        receipts = [one for job in many for one in job.result()]
    assert sum(not one.again for one in receipts) == 6
    assert {one.counted for one in receipts} == {Counted.YES}
    assert with_other.classifications.recount() == 0
    with_one.close()
    with_other.close()


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({}, "has no answer"),
        ({"smooth-or-featured": ["smoth"]}, "did you mean 'smooth'"),
        ({"smooth-or-featured": ["smooth"]}, "'how-rounded' has no answer"),
        ({"smooth-or-featured": ["artifact"], "bar": ["no"]}, "do not lead to question 'bar'"),
        ({"smooth-or-featured": ["smooth", "artifact"]}, "exactly one answer"),
        ({"smooth-or-featured": "artifact"}, "must be a list"),
        ({"nonsense": ["artifact"]}, "no question 'nonsense'"),
    ],
)
def test_what_is_no_walk_through_the_tree_is_refused(
    store: Store, annotations: dict[str, list[str]], words: str
) -> None:
    fill_store(store, 1)
    handed = store.queue.next(store.people.anonymous(NOW).id, 1, NOW)[0]
    receipt = store.classifications.submit([sending(handed, annotations)], NOW)[0]
    assert receipt.counted is None
    assert words in (receipt.error or "")
    assert not list(store.classifications.stream())


def test_one_bad_submission_does_not_spoil_the_others(store: Store) -> None:
    fill_store(store, 3)
    handed = store.queue.next(store.people.anonymous(NOW).id, 3, NOW)
    sent = [artifact(handed[0]), sending(handed[1], {}), artifact(handed[2])]
    assert [one.counted for one in store.classifications.submit(sent, NOW)] == [Counted.YES, None, Counted.YES]


def test_unknown_subjects_volunteers_and_versions_are_refused(store: Store) -> None:
    fill_store(store, 1)
    one = store.people.anonymous(NOW)
    version = store.workflows.active().id
    answer = {"smooth-or-featured": ["artifact"]}
    wrong = [
        SentClassification(str(uuid.uuid4()), one.id, 999, version, answer),
        SentClassification(str(uuid.uuid4()), 999, 1, version, answer),
        SentClassification(str(uuid.uuid4()), one.id, 1, 999, answer),
        SentClassification("no-uuid", one.id, 1, version, answer),
    ]
    errors = [receipt.error or "" for receipt in store.classifications.submit(wrong, NOW)]
    assert ["subject 999" in errors[0], "volunteer 999" in errors[1], "version 999" in errors[2]] == [True] * 3
    assert "UUID" in errors[3]


# ---- undo --------------------------------------------------------------------------------------------


def test_undo_is_a_tombstone_that_uncounts_and_a_resend_says_so(store: Store) -> None:
    fill_store(store, 1, limit=1)
    one = store.people.anonymous(NOW)
    handed = store.queue.next(one.id, 1, NOW)[0]
    sent = artifact(handed)
    assert store.classifications.submit([sent], NOW)[0].retired == "count"
    assert store.classifications.undo(sent.uuid, one.id, NOW).counted is Counted.UNDONE
    subject = store.subjects.get("s0")
    assert subject is not None
    assert (subject.tally, subject.classifications, subject.retired_at) == ({}, 0, None)
    again = store.classifications.submit([sent], NOW)[0]
    assert (again.again, again.counted) == (True, Counted.UNDONE)
    assert store.classifications.undo(sent.uuid, one.id, NOW).again
    assert classify(store, one.id, "s0").counted is Counted.YES
    assert store.classifications.recount() == 0


def test_nobody_can_undo_what_is_not_theirs(store: Store) -> None:
    fill_store(store, 1)
    one, other = store.people.anonymous(NOW), store.people.anonymous(NOW)
    handed = store.queue.next(one.id, 1, NOW)[0]
    sent = artifact(handed)
    store.classifications.submit([sent], NOW)
    words = []
    for id in (sent.uuid, str(uuid.uuid4())):
        with pytest.raises(GreenpeaError) as error:
            store.classifications.undo(id, other.id, NOW)
        words.append(str(error.value))
    assert words[0] == words[1]
    assert _tally(store, "s0")


# ---- hand-outs ---------------------------------------------------------------------------------------


def test_a_volunteer_never_gets_a_subject_twice_and_then_is_told_so(store: Store) -> None:
    fill_store(store, 30)
    one = store.people.anonymous(NOW)
    seen: list[str] = []
    while handed := store.queue.next(one.id, 4, NOW, np.random.default_rng(len(seen))):
        seen += [each.subject.subject_id for each in handed]
        store.classifications.submit([artifact(each) for each in handed], NOW)
    assert sorted(seen) == sorted(f"s{i}" for i in range(30))


def test_open_hand_outs_are_handed_out_again_unless_still_held(store: Store) -> None:
    fill_store(store, 10)
    one = store.people.anonymous(NOW)
    first = store.queue.next(one.id, 3, NOW)
    ids = {each.id for each in first}
    assert not ids & {each.id for each in store.queue.next(one.id, 2, NOW)}
    again = store.queue.next(one.id, 5, NOW, holding=[first[0].id])
    assert {first[1].id, first[2].id} <= {each.id for each in again}
    assert first[0].id not in {each.id for each in again}


def test_nobody_holds_a_whole_campaign_and_is_told_so(store: Store) -> None:
    fill_store(store, 130)
    one = store.people.anonymous(NOW)
    assert sum(len(store.queue.next(one.id, 30, NOW)) for _ in range(4)) == 100
    with pytest.raises(GreenpeaError, match="classify some of them first"):
        store.queue.next(one.id, 1, NOW)
    assert len(store.queue.next(one.id, 1, NOW, holding=[])) == 1
    assert len(store.queue.next(one.id, 1, NOW + timedelta(minutes=31))) == 1


def test_other_texts_under_the_same_rules_judge_nothing_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_store(store, 3, limit=1)
    classify(store, store.people.anonymous(NOW).id, "s0")
    with monkeypatch.context() as patched:
        patched.setattr("greenpea.store.workflows._reconsider", lambda *_, **__: pytest.fail("a pass for nothing"))
        assert store.workflows.publish(workflow(1, guide="# Rings"), NOW).number == "1.1"
    store.workflows.publish(workflow(2, guide="# Rings"), NOW)
    assert store.statistics.overview(NOW).retired == 0


def test_leases_bound_what_is_handed_out_beyond_the_limit(store: Store) -> None:
    fill_store(store, 5, limit=3)
    volunteers = [store.people.anonymous(NOW) for _ in range(6)]
    handed = [store.queue.next(one.id, 5, NOW) for one in volunteers]
    assert Counter(each.subject.subject_id for some in handed for each in some) == {f"s{i}": 3 for i in range(5)}
    later = NOW + timedelta(minutes=31)
    assert len(store.queue.next(volunteers[-1].id, 5, later)) == 5


def test_the_last_place_is_handed_out_once_to_many_at_once(database: str) -> None:
    stores = [fill_store(Store.open(database), 4, limit=2), Store.open(database)]
    volunteers = [stores[0].people.anonymous(NOW) for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        handed = list(pool.map(lambda i: stores[i % 2].queue.next(volunteers[i].id, 4, NOW), range(len(volunteers))))
    places = Counter(each.subject.subject_id for some in handed for each in some)
    assert max(places.values()) <= 2
    # Passing over a subject that somebody else holds may leave a place free: the next to ask gets it.
    rest = store_rest(stores[0], places)
    assert rest == 8 - sum(places.values())
    for one in stores:
        one.close()


def store_rest(store: Store, places: Counter[str]) -> int:
    """Return how many more places are handed out to newcomers, one after the other."""
    more = 0
    for _ in range(4):
        more += len(store.queue.next(store.people.anonymous(NOW).id, 4, NOW))
    return more


def test_a_late_vote_is_counted_and_flagged(store: Store) -> None:
    fill_store(store, 1, limit=2)
    a, b, c = (store.people.anonymous(NOW) for _ in range(3))
    late = artifact(store.queue.next(c.id, 1, NOW)[0])
    classify(store, a.id, "s0")
    assert classify(store, b.id, "s0").retired == "count"
    receipt = store.classifications.submit([late], NOW + HOUR)[0]
    assert (receipt.counted, receipt.after_retirement) == (Counted.YES, True)
    subject = store.subjects.get("s0")
    assert subject is not None
    assert (subject.classifications, subject.retired_at) == (3, NOW)
    assert store.statistics.overview(NOW).after_retirement == 1
    assert store.queue.next(store.people.anonymous(NOW).id, 1, NOW) == []


def _one_each(store: Store, count: int, rng: np.random.Generator) -> list[HandOut]:
    """Hand a subject to each of so many new volunteers; they ask together, and so share commits."""
    with ThreadPoolExecutor(32) as threads:
        everybody = list(threads.map(lambda _: store.people.anonymous(NOW).id, range(count)))

    async def ask() -> list[list[HandOut]]:
        return await asyncio.gather(*(store.queue.next_async(one, 1, NOW, rng) for one in everybody))

    return [handed for (handed,) in asyncio.run(ask())]


def test_the_random_stream_is_uniform_over_open_subjects(store: Store) -> None:
    fill_store(store, 20, limit=1000)
    store.queue.options = QueueOptions(weights={Stream.RANDOM: 1.0})
    rng = np.random.default_rng(1)
    draws = 600
    handed = _one_each(store, draws, rng)
    assert {one.stream for one in handed} == {Stream.RANDOM}
    assert {one.probability for one in handed} == {1 / 20}
    drawn = Counter(one.subject.subject_id for one in handed)
    # χ² with 19 degrees of freedom: above 43.8 in one of a thousand.
    assert sum((drawn[f"s{i}"] - draws / 20) ** 2 / (draws / 20) for i in range(20)) < 43.8


def test_streams_come_in_their_weights_and_gold_decays(store: Store) -> None:
    fill_store(store, 300, limit=1000, audit_share=0.3)
    known = {"smooth-or-featured": ["artifact"]}
    store.subjects.add((NewSubject(f"g{i}", ("",), {}, known) for i in range(60)), NOW)
    round = store.rounds.create("model", 1, {}, NOW)
    store.rounds.publish(round, [(f"s{i}", -float(i)) for i in range(300)])
    store.rounds.activate(round, NOW)
    rng = np.random.default_rng(0)
    first = Counter(one.stream for one in _one_each(store, 400, rng))
    share = {stream: count / 400 for stream, count in first.items()}
    assert share[Stream.GOLD] == pytest.approx(0.3, abs=0.08)
    for stream, weight in ((Stream.RANK, 0.7), (Stream.RANDOM, 0.2), (Stream.AUDIT, 0.1)):
        assert share[stream] == pytest.approx(0.7 * weight, abs=0.08)
    options = QueueOptions()
    assert options.gold(0) == pytest.approx(0.3)
    assert options.gold(1000) == pytest.approx(0.05)


def test_gold_subjects_train_and_are_not_counted(store: Store) -> None:
    fill_store(store, 2)
    store.subjects.add([NewSubject("known", ("",), {}, {"smooth-or-featured": ["artifact"]})], NOW)
    one = store.people.anonymous(NOW)
    receipt = classify(store, one.id, "known")
    assert (receipt.counted, receipt.gold) == (Counted.GOLD, {"smooth-or-featured": ["artifact"]})
    assert classify(store, one.id, "known").counted is Counted.REPEATED
    assert _tally(store, "known") == {}
    assert store.classifications.recount() == 0


# ---- ranks -------------------------------------------------------------------------------------------


def _ranked(store: Store, order: list[int]) -> int:
    round = store.rounds.create("model", 7, {"n": 5}, NOW)
    assert store.rounds.publish(round, [(f"s{i}", 1.0) for i in order], [0.5] * len(order)) == len(order)
    return round


def test_ranks_are_followed_switched_at_once_and_rolled_back(store: Store) -> None:
    fill_store(store, 10)
    store.queue.options = QueueOptions(weights={Stream.RANK: 1.0})
    up, down = _ranked(store, list(range(10))), _ranked(store, list(range(9, -1, -1)))

    def best() -> list[str]:
        handed = store.queue.next(store.people.anonymous(NOW).id, 3, NOW)
        assert {each.probability for each in handed} == {0.5}
        return [each.subject.subject_id for each in handed]

    store.rounds.activate(up, NOW)
    assert best() == ["s0", "s1", "s2"]
    store.rounds.activate(down, NOW)
    assert best() == ["s9", "s8", "s7"]
    store.rounds.activate(up, NOW)
    assert best() == ["s0", "s1", "s2"]
    assert [(one.id, one.active, one.subjects) for one in store.rounds.all()] == [(down, False, 10), (up, True, 10)]
    with pytest.raises(GreenpeaError, match="ranks the queue now"):
        store.rounds.publish(up, [])
    unfinished = store.rounds.create("model", 1, {}, NOW)
    with pytest.raises(GreenpeaError, match="not complete"):
        store.rounds.activate(unfinished, NOW)


def test_ranked_subjects_are_skipped_when_seen_or_retired_and_random_goes_on(store: Store) -> None:
    fill_store(store, 6, limit=1)
    store.queue.options = QueueOptions(weights={Stream.RANK: 1.0})
    store.rounds.activate(_ranked(store, [0, 1, 2]), NOW)
    classify(store, store.people.anonymous(NOW).id, "s0")
    one = store.people.anonymous(NOW)
    handed = store.queue.next(one.id, 6, NOW)
    assert [each.subject.subject_id for each in handed[:2]] == ["s1", "s2"]
    assert {each.stream for each in handed[2:]} == {Stream.RANDOM}
    assert len(handed) == 5


def test_audit_subjects_are_never_ranked_nor_retired_by_a_posterior(store: Store) -> None:
    fill_store(store, 200, audit_share=0.2)
    audit, _ = store.subjects.browse(audit=True, limit=100)
    assert 15 < len(audit) < 70
    round = store.rounds.create("model", 1, {}, NOW)
    assert store.rounds.publish(round, [(f"s{i}", 1.0) for i in range(200)]) == 200 - len(audit)
    assert store.rounds.retire({f"s{i}": "confident" for i in range(200)}, NOW) == 200 - len(audit)
    still, _ = store.subjects.browse(retired=False, limit=200)
    assert {one.subject_id for one in still} == {one.subject_id for one in audit}
    assert store.classifications.recount() == 0


# ---- retirement and workflows ------------------------------------------------------------------------


def test_raising_a_limit_unretires_and_lowering_retires(store: Store) -> None:
    fill_store(store, 30, limit=2)
    for _ in range(2):
        one = store.people.anonymous(NOW)
        for i in range(20):
            classify(store, one.id, f"s{i}")
    assert store.statistics.overview(NOW).retired == 20
    assert store.workflows.consequences(workflow(3)) | {"classifications": 0} == {
        "kind": "minor",
        "classifications": 0,
        "would_retire": 0,
        "would_unretire": 20,
    }
    assert store.workflows.publish(workflow(3), NOW).number == "1.1"
    assert store.statistics.overview(NOW).retired == 0
    store.workflows.publish(workflow(1), NOW)
    assert store.statistics.overview(NOW).by_reason == {"count": 20}
    assert store.classifications.recount() == 0


def test_a_limit_raised_while_people_vote_loses_nothing(store: Store) -> None:
    fill_store(store, 40, limit=3)
    volunteers = [store.people.anonymous(NOW) for _ in range(8)]

    def vote(one: int) -> int:
        done = 0
        rng = np.random.default_rng(one)
        while handed := store.queue.next(volunteers[one].id, 2, NOW, rng):
            done += len(store.classifications.submit([artifact(each) for each in handed], NOW))
        return done

    with ThreadPoolExecutor(9) as pool:
        voting = [pool.submit(vote, one) for one in range(8)]
        limits = [pool.submit(store.workflows.publish, workflow(limit), NOW) for limit in (4, 6)]
        assert all(job.result() for job in limits)
        cast = sum(job.result() for job in voting)
    assert store.statistics.overview(NOW).counted == cast
    assert store.classifications.recount() == 0
    retired, _ = store.subjects.browse(retired=True, limit=100)
    assert all(one.classifications >= 6 for one in retired)


def test_votes_stay_with_the_major_version_they_were_cast_on(store: Store) -> None:
    fill_store(store, 5, limit=2)
    one, other = store.people.anonymous(NOW), store.people.anonymous(NOW)
    held = store.queue.next(other.id, 1, NOW)[0]
    classify(store, one.id, "s0")
    version = store.workflows.publish(workflow(2, "gz2"), NOW)
    assert version.number == "2.0"
    assert store.statistics.overview(NOW).counted == 0
    receipt = store.classifications.submit([artifact(held)], NOW)[0]
    assert receipt.counted is Counted.YES
    assert sum(number for _, number, _ in store.classifications.tallies(1)) == 2
    assert list(store.classifications.tallies(2)) == []
    again = store.queue.next(one.id, 5, NOW)
    assert "s0" in {each.subject.subject_id for each in again}
    assert store.classifications.recount() == 0
    store.subjects.add([NewSubject("new", ("",))], NOW)
    assert store.subjects.get("new") is not None


def test_publishing_the_same_again_changes_nothing(store: Store) -> None:
    fill_store(store, 1)
    assert store.workflows.publish(workflow(), NOW).number == "1.0"
    assert len(store.workflows.all()) == 1


def test_rules_retire_early_and_by_consensus_but_not_the_audit_set(store: Store) -> None:
    rules = [
        {"rule": "answer", "question": "smooth-or-featured", "answer": "artifact", "share": 0.7, "votes": 3},
        {"rule": "consensus", "question": "smooth-or-featured", "share": 0.9, "votes": 5},
        {"rule": "count", "classifications": 40},
    ]
    fill_store(store, 1, retirement=rules)
    store.subjects.add([NewSubject("watched", ("",))], NOW, audit_share=0.5)
    store.subjects.add([NewSubject(f"a{i}", ("",)) for i in range(20)], NOW, audit_share=0.5)
    audit = store.subjects.browse(audit=True)[0][0].subject_id
    other = store.subjects.browse(audit=False, search="a")[0][0].subject_id
    volunteers = [store.people.anonymous(NOW) for _ in range(6)]
    retired = [classify(store, one.id, "s0").retired for one in volunteers[:3]]
    assert retired == [None, None, "answer artifact"]
    for one in volunteers:
        subject = store.subjects.get(other)
        assert subject is not None
        sent = SentClassification(str(uuid.uuid4()), one.id, subject.id, 1, SMOOTH)
        store.classifications.submit([sent], NOW)
        classify(store, one.id, audit)
    assert store.statistics.overview(NOW).by_reason == {"answer artifact": 1, "consensus on smooth-or-featured": 1}


# ---- people ------------------------------------------------------------------------------------------


def test_anonymous_work_follows_a_sign_up(store: Store) -> None:
    fill_store(store, 3)
    one = store.people.anonymous(NOW)
    classify(store, one.id, "s0")
    account = store.people.sign_up("Ada Lovelace", "the engine weaves", NOW, anonymous=one.id)
    assert (account.id, account.count) == (one.id, 1)
    assert store.people.check_password("ada  lovelace", "the engine weaves") == account
    assert store.people.check_password("ada lovelace", "something else") is None
    assert store.people.check_password("nobody", "something else") is None
    with pytest.raises(GreenpeaError, match="taken"):
        store.people.sign_up("ADA LOVELACE", "another password", NOW)


def test_merging_uncounts_the_later_of_two_on_one_subject(store: Store) -> None:
    fill_store(store, 4, limit=2)
    account = store.people.sign_up("Ada", "the engine weaves", NOW)
    classify(store, account.id, "s0", NOW)
    classify(store, account.id, "s1", NOW + 2 * HOUR)
    one = store.people.anonymous(NOW)
    waiting = artifact(store.queue.direct(one.id, "s3", NOW))  # type: ignore[arg-type]
    for subject in ("s0", "s1", "s2"):
        classify(store, one.id, subject, NOW + HOUR)
    assert store.subjects.get("s0").retired_at  # type: ignore[union-attr]
    assert store.people.merge(one.id, account.id, NOW) == 3
    assert store.people.merge(one.id, account.id, NOW) == 0
    states = {(s.subject_id, s.received_at): s.counted for s in store.classifications.of_volunteer(account.id)}
    assert states == {
        ("s0", NOW): Counted.YES,
        ("s0", NOW + HOUR): Counted.REPEATED,
        ("s1", NOW + HOUR): Counted.YES,
        ("s1", NOW + 2 * HOUR): Counted.REPEATED,
        ("s2", NOW + HOUR): Counted.YES,
    }
    assert store.subjects.get("s0").retired_at is None  # type: ignore[union-attr]
    assert store.people.get(one.id).id == account.id  # type: ignore[union-attr]
    receipt = store.classifications.submit([waiting], NOW)[0]
    assert receipt.counted is Counted.YES
    assert store.people.get(account.id).count == 4  # type: ignore[union-attr]
    assert store.classifications.recount() == 0
    assert store.queue.next(one.id, 4, NOW) == []


def test_merging_while_both_classify_keeps_the_counts(store: Store) -> None:
    fill_store(store, 30)
    account = store.people.sign_up("Ada", "the engine weaves", NOW)
    one = store.people.anonymous(NOW)
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(classify, store, who, f"s{i}") for i in range(30) for who in (one.id, account.id)]
        pool.submit(store.people.merge, one.id, account.id, NOW).result()
        assert all(job.result().error is None for job in jobs)
    assert store.classifications.recount() == 0
    assert store.statistics.overview(NOW).counted == 30
    assert store.statistics.overview(NOW).uncounted == {"repeated": 30}


def test_a_ban_recounts_without_the_volunteer_and_can_be_lifted(store: Store) -> None:
    fill_store(store, 4, limit=1)
    vandal = store.people.sign_up("Vandal", "destroy it all now", NOW)
    token = store.people.open_session(vandal.id, NOW)
    for i in range(3):
        classify(store, vandal.id, f"s{i}")
    assert store.people.ban(vandal.id, NOW, recount=True) == 3
    held = store.people.session(token, NOW)
    assert held is not None, "they are told, and do not go on as somebody new"
    assert held.banned_at == NOW
    overview = store.statistics.overview(NOW)
    assert (overview.counted, overview.uncounted, overview.retired) == (0, {"banned": 3}, 0)
    assert classify(store, vandal.id, "s3").counted is Counted.BANNED
    assert store.queue.next(vandal.id, 1, NOW) == []
    assert store.people.unban(vandal.id, NOW) == 4
    assert store.statistics.overview(NOW).retired == 4
    assert store.classifications.recount() == 0


def test_deleting_takes_the_name_and_leaves_the_counts(store: Store) -> None:
    fill_store(store, 2)
    ada = store.people.sign_up("Ada", "the engine weaves", NOW, email="ada@example.org")
    classify(store, ada.id, "s0")
    store.finds.flag(str(uuid.uuid4()), ada.id, 1, "look", NOW)
    store.people.favourite(ada.id, 1, True, NOW)
    taken = store.people.export(ada.id)
    assert taken["volunteer"]["name"] == "Ada"
    assert len(taken["classifications"]) == len(taken["finds"]) == len(taken["favourites"]) == 1
    assert "password" not in taken["volunteer"]
    store.people.delete(ada.id, NOW)
    assert store.people.by_name("Ada") is None
    assert store.people.check_password("Ada", "the engine weaves") is None
    assert "Ada" not in str(store.people.export(ada.id))
    assert "example.org" not in str(store.people.export(ada.id))
    assert _tally(store, "s0")["smooth-or-featured"] == 1
    assert store.classifications.recount() == 0


def test_tokens_are_used_once_and_end_sessions(store: Store) -> None:
    fill_store(store, 1)
    ada = store.people.sign_up("Ada", "the engine weaves", NOW)
    session = store.people.open_session(ada.id, NOW)
    assert store.people.session(session, NOW) == ada
    assert store.people.session(session, NOW + timedelta(days=31)) is None
    first, token = store.people.reset_token(ada.id, NOW), store.people.reset_token(ada.id, NOW)
    assert store.people.use_reset_token(token, "a new password", NOW + timedelta(days=2)) is None
    with pytest.raises(GreenpeaError, match="10 to 256"):
        store.people.use_reset_token(token, "short", NOW)
    assert store.people.use_reset_token(token, "a new password", NOW) is not None
    assert store.people.use_reset_token(token, "another password", NOW) is None
    assert store.people.use_reset_token(first, "another password", NOW) is None
    assert store.people.session(session, NOW) is None
    assert store.people.check_password("Ada", "a new password") is not None
    invitation = store.people.invite(Role.SCIENTIST, NOW)
    assert store.people.invited(invitation, NOW) is Role.SCIENTIST
    with ThreadPoolExecutor(4) as pool:
        used = list(pool.map(lambda _: store.people.use_invite(invitation, NOW), range(4)))
    assert sorted(map(str, used)) == sorted(map(str, [Role.SCIENTIST, None, None, None]))


def test_passwords_are_kept_as_argon2id_and_grow_stronger(
    store: Store, careful: PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept() -> str:
        with store.database.read() as connection:
            return str(connection.execute(sa.text("SELECT password FROM volunteers")).scalar_one())

    ada = store.people.sign_up("Ada", "the engine weaves", NOW)
    weak = kept()
    monkeypatch.setattr(people, "_hasher", careful)
    assert store.people.check_password("Ada", "another password") is None
    assert kept() == weak
    found = store.people.check_password("Ada", "the engine weaves")
    assert found is not None
    assert found.id == ada.id
    # RFC 9106's second recommended option: 64 MiB, three passes, four lanes.
    assert kept().startswith("$argon2id$v=19$m=65536,t=3,p=4$")


def test_the_last_owner_stays(store: Store) -> None:
    fill_store(store, 1)
    ada = store.people.sign_up("Ada", "the engine weaves", NOW, role=Role.OWNER)
    for attempt in (
        lambda: store.people.set_role(ada.id, Role.VOLUNTEER),
        lambda: store.people.delete(ada.id, NOW),
    ):
        with pytest.raises(GreenpeaError, match="needs an owner"):
            attempt()
    with pytest.raises(GreenpeaError, match="owner cannot be banned"):
        store.people.ban(ada.id, NOW, recount=True)


@pytest.mark.parametrize("name", ["", " ", "-ada", "a" * 41, "ada\x07b", "not-logged-in-12", "<b>", "ada\x00"])
def test_names_that_will_not_do(store: Store, name: str) -> None:
    fill_store(store, 1)
    with pytest.raises(GreenpeaError):
        store.people.sign_up(name, "the engine weaves", NOW)


@pytest.mark.parametrize("password", ["short", "password123", "Ada Lovelace", "aaaaaaaaaaaa", "x" * 300])
def test_passwords_that_will_not_do(store: Store, password: str) -> None:
    fill_store(store, 1)
    with pytest.raises(GreenpeaError, match="password"):
        store.people.sign_up("Ada Lovelace", password, NOW)


def test_finds_are_flagged_once_hidden_and_liked(store: Store) -> None:
    fill_store(store, 3)
    a, b = store.people.anonymous(NOW), store.people.anonymous(NOW)
    id = str(uuid.uuid4())
    first = store.finds.flag(id, a.id, 1, "green!", NOW)
    assert store.finds.flag(id, a.id, 1, "green!", NOW) == first
    second = store.finds.flag(str(uuid.uuid4()), b.id, 2, "odd", NOW)
    assert store.finds.like(first.id, b.id, True) == 1
    assert store.finds.like(first.id, b.id, True) == 1
    liked, _ = store.finds.all(order="liked", viewer=b.id)
    assert [(one.id, one.likes, one.liked) for one in liked] == [(first.id, 1, True), (second.id, 0, False)]
    page, following = store.finds.all(limit=1)
    rest, end = store.finds.all(limit=1, after=following)
    assert [page[0].id, rest[0].id, end] == [second.id, first.id, None]
    store.finds.hide(first.id, True)
    assert [one.id for one in store.finds.all()[0]] == [second.id]
    with pytest.raises(GreenpeaError, match="at most"):
        store.finds.flag(str(uuid.uuid4()), a.id, 1, "x" * 3000, NOW)


# ---- lists -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["subject_id", "classifications", "newest"])
def test_pages_hold_every_subject_once(store: Store, order: str) -> None:
    fill_store(store, 23)
    rng = random.Random(1)
    for one in [store.people.anonymous(NOW) for _ in range(3)]:
        for i in rng.sample(range(23), 9):
            classify(store, one.id, f"s{i}")
    found, after = store.subjects.browse(order=order, limit=5)  # type: ignore[arg-type]
    pages = [found]
    while after is not None:
        found, after = store.subjects.browse(order=order, after=after, limit=5)  # type: ignore[arg-type]
        pages.append(found)
    everybody = [one for page in pages for one in page]
    assert sorted(one.subject_id for one in everybody) == sorted(f"s{i}" for i in range(23))
    key = {
        "subject_id": lambda s: s.subject_id,
        "classifications": lambda s: -s.classifications,
        "newest": lambda s: -s.id,
    }
    assert everybody == sorted(everybody, key=key[order])


def test_filters_and_searches_take_any_text(store: Store) -> None:
    fill_store(store, 3)
    store.subjects.add([NewSubject("100%_odd'; --", ("",))], NOW)
    for text, count in (("%", 1), ("_", 1), ("'; --", 1), ("s", 3), ("\x00s1", 1), ("S2", 1)):
        assert len(store.subjects.browse(search=text)[0]) == count, text
    assert store.subjects.get("s\x00") is None
    assert store.people.by_name("\x00") is None
    assert store.people.by_public("\x00") is None


def test_the_list_of_volunteers_shows_counts_and_agreement(store: Store) -> None:
    fill_store(store, 3)
    people = [store.people.anonymous(NOW) for _ in range(3)]
    for one in people[:2]:
        classify(store, one.id, "s0")
    subject = store.subjects.get("s0")
    assert subject is not None
    store.classifications.submit([SentClassification(str(uuid.uuid4()), people[2].id, subject.id, 1, SMOOTH)], NOW)
    rows, _ = store.people.listing()
    agreement = {row.volunteer.id: row.agreement for row in rows}
    assert agreement == {people[0].id: 0.5, people[1].id: 0.5, people[2].id: 0.0}
    assert {row.last_at for row in rows} == {NOW}


def test_statistics_add_up(store: Store) -> None:
    fill_store(store, 4, limit=2)
    one, other = store.people.anonymous(NOW), store.people.anonymous(NOW)
    for i, when in enumerate((NOW, NOW + HOUR, NOW + HOUR)):
        classify(store, one.id, f"s{i}", when)
    classify(store, other.id, "s0", NOW + 2 * HOUR)
    hours = store.statistics.per_hour(NOW - HOUR, NOW + 4 * HOUR)
    assert [(count, retired) for _, count, retired in hours] == [(0, 0), (1, 0), (2, 0), (1, 1), (0, 0)]
    overview = store.statistics.overview(NOW + 2 * HOUR)
    assert (overview.outstanding, overview.last_hour, overview.last_day) == (4, 1, 4)
    assert store.statistics.by_stream() == {"direct": 4}


# ---- import ------------------------------------------------------------------------------------------


def test_importing_twice_stores_once_and_nothing_vanishes(store: Store) -> None:
    fill_store(store, 3)
    answer = {"smooth-or-featured": ["artifact"]}
    found = [
        Classification("z-1", "s0", "ada", answer),
        Classification("z-2", "s0", "ada", answer),
        Classification("z-3", "s1", "grace", {"smooth-or-featured": ["smooth"]}),  # ends early
        Classification("z-4", "s1", "grace", {"nonsense": ["smooth"]}),
        Classification("z-5", "elsewhere", "grace", answer),
    ]
    first = store.classifications.import_(found, NOW)
    assert (first.stored, first.repeated, first.again) == (2, 1, 0)
    assert first.strangers == [("z-5", "elsewhere")]
    assert [id for id, _ in first.refused] == ["z-4"]
    second = store.classifications.import_(found, NOW)
    assert (second.stored, second.again) == (0, 3)
    assert store.statistics.overview(NOW).counted == 2
    assert {row.volunteer.shown for row in store.people.listing()[0]} == {"ada", "grace"}
    assert store.classifications.recount() == 0


# ---- anything, in any order --------------------------------------------------------------------------

STEP = st.one_of(
    st.tuples(st.just("classify"), st.integers(0, 3), st.integers(0, 4)),
    st.tuples(st.just("resend"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("undo"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("ban"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("unban"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("merge"), st.integers(0, 3), st.integers(4, 5)),
    st.tuples(st.just("limit"), st.integers(1, 4), st.just(0)),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=30))
def test_whatever_happens_the_counters_equal_a_recount(database: str, steps: list[tuple[str, int, int]]) -> None:
    store = Store.open(database)
    if not store.workflows.all():
        fill_store(store, 5, limit=2)
    people = [store.people.anonymous(NOW).id for _ in range(4)]
    people += [store.people.sign_up(f"A {uuid.uuid4()}", "the engine weaves", NOW).id for _ in range(2)]
    sent: list[SentClassification] = []
    for step, a, b in steps:
        if step == "classify":
            subject = store.subjects.get(f"s{b}")
            assert subject is not None
            one = SentClassification(
                str(uuid.uuid4()), people[a], subject.id, 1, random.Random(a).choice([SMOOTH, _ARTIFACT])
            )
            sent.append(one)
            store.classifications.submit([one], NOW)
        elif step == "resend" and sent:
            assert store.classifications.submit([sent[a % len(sent)]], NOW)[0].again
        elif step == "undo" and sent:
            one = sent[a % len(sent)]
            store.classifications.undo(one.uuid, one.volunteer, NOW)
        elif step == "ban":
            store.people.ban(people[a], NOW, bool(b))
        elif step == "unban":
            store.people.unban(people[a], NOW)
        elif step == "merge":
            store.people.merge(people[a], people[b], NOW)
        elif step == "limit":
            store.workflows.publish(workflow(a), NOW)
    assert store.classifications.recount() == 0
    store.close()


_ARTIFACT = {"smooth-or-featured": ["artifact"]}
