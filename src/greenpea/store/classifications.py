"""Taking classifications: each counts once or not at all, and says which; counts follow in the same transaction."""

from __future__ import annotations

import asyncio
import json
import uuid as uuids
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, func, insert, select, update

from greenpea import classifications as walks
from greenpea import retirement
from greenpea.classifications import Classification, Tally
from greenpea.errors import GreenpeaError
from greenpea.store import counters, identities
from greenpea.store.engine import Database, fitting, padded, text_of
from greenpea.store.schema import classifications, handouts, pools, progress, subjects, versions, volunteers
from greenpea.store.values import Counted, ImportReport, Receipt, SentClassification, Stored, Stream
from greenpea.store.workflows import Workflows, rules_of, workflow_of
from greenpea.votes import Votes
from greenpea.workflow import Workflow

LONGEST_ID, LONGEST_SOURCE = 64, 300  # characters
BLOCK = 1000  # classifications read or imported at a time
TOGETHER = 16  # classifications looked up together
LIVE = (Counted.YES.value, Counted.GOLD.value)
Place = tuple[int, int]  # major version, subject


class Classifications:
    """Every classification ever sent, and the counts of those that count."""

    def __init__(self, database: Database, workflows: Workflows) -> None:
        self._database, self._workflows = database, workflows
        self._parsed: dict[int, Workflow] = {}

    # ---- taking --------------------------------------------------------------------------------

    def submit(self, sent: Sequence[SentClassification], now: datetime) -> list[Receipt]:
        """Store classifications in one transaction, in this order; return what became of each after the commit.

        A uuid that is stored already is answered with what became of it then, and counts nothing. About eight
        statements for any number of them.
        """
        return self._database.write(lambda connection: self._take(connection, [(one, now) for one in sent]))

    async def submit_async(self, sent: SentClassification, now: datetime) -> Receipt:
        """Store one classification, in a transaction with all others that wait."""
        return await asyncio.wrap_future(self._database.submit_to(self._take, (sent, now)))

    def _take(self, connection: Connection, arrived: Sequence[tuple[SentClassification, datetime]]) -> list[Receipt]:
        return _Taking(connection, self._parsed, [one for one, _ in arrived]).take(arrived)

    # ---- taking back ---------------------------------------------------------------------------

    def undo(self, uuid: str, volunteer: int, now: datetime) -> Receipt:
        """Un-count a volunteer's own classification; it stays, marked as undone. Again changes nothing.

        Raises GreenpeaError where the volunteer has no such classification: the same, whoever's it may be.
        """
        return self._database.write(lambda connection: self._undo(connection, uuid, volunteer, now))

    def _undo(self, connection: Connection, uuid: str, volunteer: int, now: datetime) -> Receipt:
        own = identities.locked(connection, [volunteer]).get(volunteer)
        row = connection.execute(select(classifications).where(classifications.c.uuid == text_of(uuid))).one_or_none()
        if row is None or own is None or row.volunteer != own[0]:
            raise GreenpeaError("there is no classification of yours with this id")
        if row.counted in LIVE:
            uncount(connection, self._parsed, [row], Counted.UNDONE, now)
        # One that did not count, as a repeated one, is marked all the same: it must not count later either.
        mark = update(classifications).where(classifications.c.id == row.id).values(counted=Counted.UNDONE.value)
        connection.execute(mark)
        return Receipt(uuid, Counted.UNDONE, again=row.counted == Counted.UNDONE)

    # ---- reading -------------------------------------------------------------------------------

    def get(self, uuid: str) -> Stored | None:
        """Return one classification, or None."""
        return next(iter(self._read(_all().where(classifications.c.uuid == text_of(uuid)))), None)

    def of_volunteer(self, volunteer: int, after: int | None = None, limit: int = 50) -> list[Stored]:
        """Return a volunteer's classifications, newest first; ``after`` is the last id of the page before."""
        query = _all().where(classifications.c.volunteer == volunteer).order_by(classifications.c.id.desc())
        if after is not None:
            query = query.where(classifications.c.id < after)
        return self._read(query.limit(limit))

    def of_subject(self, subject: int, limit: int = 500) -> list[Stored]:
        """Return the classifications of a subject, newest first."""
        query = _all().where(classifications.c.subject == subject).order_by(classifications.c.id.desc())
        return self._read(query.limit(limit))

    def stream(self, since: int = 0, counted_only: bool = False) -> Iterator[Stored]:
        """Yield all classifications with an id above ``since``, in order, `BLOCK` at a time; no transaction is held.

        Not for following along: on PostgreSQL another worker may still be writing one with a lower id.
        """
        while True:
            query = _all().where(classifications.c.id > since).order_by(classifications.c.id).limit(BLOCK)
            if counted_only:
                query = query.where(classifications.c.counted == Counted.YES.value)
            found = self._read(query)
            yield from found
            if len(found) < BLOCK:
                return
            since = found[-1].id

    def _read(self, query: Select[Any]) -> list[Stored]:
        with self._database.read() as connection:
            return [_stored(row) for row in connection.execute(query)]

    # ---- counts --------------------------------------------------------------------------------

    def tallies(self, major: int | None = None) -> Iterator[tuple[str, int, Tally]]:
        """Yield (subject id, classifications, tally) of every subject with counts, by default at the active version."""
        major = self._workflows.active().major if major is None else major
        after = 0
        while True:
            query = (
                select(progress.c.subject, subjects.c.subject_id, progress.c.classifications, progress.c.tally)
                .join(subjects, subjects.c.id == progress.c.subject)
                .where((progress.c.major == major) & (progress.c.subject > after) & (progress.c.classifications > 0))
                .order_by(progress.c.subject)
                .limit(BLOCK)
            )
            with self._database.read() as connection:
                rows = connection.execute(query).all()
            yield from ((row.subject_id, row.classifications, dict(row.tally)) for row in rows)
            if len(rows) < BLOCK:
                return
            after = rows[-1].subject

    def votes(self) -> Votes:
        """Return the counted votes at the active version, on its tree."""
        tallies = {subject_id: tally for subject_id, _, tally in self.tallies()}
        return walks.votes_of(tallies, self._workflows.active().workflow.tree)

    def recount(self) -> int:
        """Return how many counters differ from a recount of the raw classifications: 0, always.

        One pass over all classifications and all counters, on one state of the database.
        """
        with self._database.snapshot() as connection:
            return _differences(connection)

    # ---- classifications made elsewhere --------------------------------------------------------

    def import_(
        self, found: Iterable[Classification], now: datetime, progress: Callable[[int], None] | None = None
    ) -> ImportReport:
        """Store classifications made elsewhere, `BLOCK` at a time; importing them again stores nothing.

        Volunteers are known by their name at the source. A classification must be a walk through the active
        tree, though it may end early. Every one is in exactly one place of the report.
        """
        report, done, block = ImportReport(), 0, []
        for one in found:
            block.append(one)
            if len(block) == BLOCK:
                self._import(block, now, report)
                done += len(block)
                block = []
                if progress:
                    progress(done)
        self._import(block, now, report)
        return report

    def _import(self, block: list[Classification], now: datetime, report: ImportReport) -> None:
        version = self._workflows.active()
        good = []
        for one in block:
            try:
                walks.check(version.workflow.tree, one.annotations, complete=False)
                fitting(one.volunteer, LONGEST_SOURCE, "a volunteer's name")
                good.append(one)
            except GreenpeaError as error:
                report.refused.append((one.uuid, str(error)))
        if not good:
            return
        known, receipts = self._database.write(lambda c: self._import_block(c, good, version.id, now))
        report.strangers += [(one.uuid, one.subject_id) for one in good if one.subject_id not in known]
        for receipt in receipts:
            if receipt.again:
                report.again += 1
            elif receipt.error:
                report.refused.append((receipt.uuid, receipt.error))
            elif receipt.counted == Counted.YES:
                report.stored += 1
            elif receipt.counted == Counted.GOLD:
                report.gold += 1
            else:
                report.repeated += 1

    def _import_block(
        self, connection: Connection, block: list[Classification], version: int, now: datetime
    ) -> tuple[dict[str, int], list[Receipt]]:
        ids = {one.subject_id for one in block}
        known: dict[str, int] = dict(
            connection.execute(select(subjects.c.subject_id, subjects.c.id).where(subjects.c.subject_id.in_(ids))).all()
        )
        block = [one for one in block if one.subject_id in known]
        volunteer = identities.imported(connection, {one.volunteer for one in block}, now)
        arrived = [
            SentClassification(
                uuid=one.uuid,
                volunteer=volunteer[one.volunteer],
                subject=known[one.subject_id],
                version=version,
                annotations=one.annotations,
                stream=Stream.IMPORT,
                started_at=one.started_at,
                finished_at=one.finished_at,
                metadata=dict(one.metadata) | {"workflow_version": one.version},
            )
            for one in block
        ]
        return known, _Taking(connection, self._parsed, arrived, complete=False).take([(one, now) for one in arrived])


# ---- one transaction ---------------------------------------------------------------------------------


@dataclass
class _Counter:
    """A row of `progress`, as it becomes while classifications are taken."""

    major: int
    subject: int
    pool: str
    gold: Any
    classifications: int
    tally: Tally
    retired_at: datetime | None
    reason: str | None
    retired_by: str | None
    changed: bool = False
    closed: bool = False  # retired in this transaction


class _Taking:
    """What taking some classifications needs to know, read in a few statements; then one pass over them."""

    def __init__(
        self,
        connection: Connection,
        parsed: dict[int, Workflow],
        arrived: Sequence[SentClassification],
        complete: bool = True,
    ) -> None:
        self.connection, self.parsed, self.complete = connection, parsed, complete
        # Locked before anything is decided, in one order for everybody: what is read next stays true.
        who = identities.locked(connection, {one.volunteer for one in arrived})
        majors, _ = rules_of(connection, parsed)
        self.counters = _locked(
            connection,
            {(majors.get(one.version, 0), one.subject) for one in arrived if abs(one.subject) < identities.HIGHEST},
        )
        self.majors, self.rules = rules_of(connection, parsed)
        self.volunteers = {id: now for id, (now, _) in who.items()}
        self.banned = {now for now, banned in who.values() if banned}
        self.stored = self._stored({one.uuid for one in arrived})
        self.live = self._live(arrived)
        self.new: list[dict[str, Any]] = []
        self.more: dict[int, int] = {}  # volunteer → classifications that count

    def _stored(self, ids: set[str]) -> dict[str, tuple[int, int, str, bool]]:
        rows = self.connection.execute(STORED, {"ids": padded(ids)})
        return {row.uuid: (row.volunteer, row.subject, row.counted, row.after_retirement) for row in rows}

    def _live(self, arrived: Sequence[SentClassification]) -> set[tuple[int, int, int]]:
        """Return (volunteer, major, subject) where a classification is counted already: those at hand, and more.

        Every volunteer of a few classifications is looked up with every subject of these. That is a probe of the index
        for each pair; for the exact pairs SQLite would read the whole index.
        """
        known = [one for one in arrived if one.volunteer in self.volunteers and one.version in self.majors]
        live: set[tuple[int, int, int]] = set()
        for start in range(0, len(known), TOGETHER):
            some = known[start : start + TOGETHER]
            wanted = {
                "volunteers": padded({self.volunteers[one.volunteer] for one in some}),
                "majors": padded({self.majors[one.version] for one in some}),
                "subjects": padded({one.subject for one in some if abs(one.subject) < identities.HIGHEST}),
            }
            live |= {(one, major, subject) for one, major, subject in self.connection.execute(LIVE_ONES, wanted)}
        return live

    def take(self, arrived: Sequence[tuple[SentClassification, datetime]]) -> list[Receipt]:
        receipts = [self._one(sent, now) for sent, now in arrived]
        self._write()
        return receipts

    def _one(self, one: SentClassification, now: datetime) -> Receipt:
        if one.uuid in self.stored:
            return self._again(one)
        if error := self._refused(one):
            return Receipt(one.uuid, None, error=error)
        counter = self.counters[self.majors[one.version], one.subject]
        volunteer = self.volunteers[one.volunteer]
        counted = self._counted(volunteer, counter)
        late = counted == Counted.YES and counter.retired_at is not None
        retired = self._count(one, counter, now) if counted == Counted.YES else None
        if counted in LIVE:
            self.live.add((volunteer, counter.major, counter.subject))
            self.more[volunteer] = self.more.get(volunteer, 0) + 1
        self.stored[one.uuid] = (volunteer, one.subject, counted.value, late)
        self.new.append(_row(one, volunteer, counter.major, counted, late, now))
        return Receipt(one.uuid, counted, after_retirement=late, retired=retired, gold=counter.gold)

    def _again(self, one: SentClassification) -> Receipt:
        volunteer, subject, counted, late = self.stored[one.uuid]
        if volunteer != self.volunteers.get(one.volunteer) or subject != one.subject:
            return Receipt(one.uuid, None, error="this id belongs to another classification: make a new one")
        counter = self.counters.get((self.majors.get(one.version, 0), subject))
        gold = counter.gold if counter else None
        return Receipt(one.uuid, Counted(counted), again=True, after_retirement=late, gold=gold)

    def _refused(self, one: SentClassification) -> str | None:
        if one.version not in self.majors:
            return f"there is no workflow version {one.version}"
        if (self.majors[one.version], one.subject) not in self.counters:
            return f"there is no subject {one.subject}"
        if one.volunteer not in self.volunteers:
            return f"there is no volunteer {one.volunteer}"
        try:
            _check_values(one, self.complete)
            walks.check(workflow_of(self.connection, self.parsed, one.version).tree, one.annotations, self.complete)
        except GreenpeaError as error:
            return str(error)
        return None

    def _counted(self, volunteer: int, counter: _Counter) -> Counted:
        if (volunteer, counter.major, counter.subject) in self.live:
            return Counted.REPEATED
        if volunteer in self.banned:
            return Counted.BANNED
        return Counted.GOLD if counter.gold is not None else Counted.YES

    def _count(self, one: SentClassification, counter: _Counter, now: datetime) -> str | None:
        """Count into the subject's tally; return the reason where it retires by this."""
        walks.add(counter.tally, one.annotations)
        counter.classifications += 1
        counter.changed = True
        if counter.retired_at is not None:
            return None
        rules = self.rules[counter.major].retirement
        reason = retirement.decide(rules, counter.classifications, counter.tally, counter.pool == "audit")
        if reason:
            counter.retired_at, counter.reason, counter.retired_by, counter.closed = now, reason, "rule", True
        return reason

    def _write(self) -> None:
        if self.new:
            self.connection.execute(INSERT, self.new)
            self.connection.execute(CLOSE, [{f"b_{name}": row[name] for name in CLOSED_BY} for row in self.new])
        changed = [counter for _, counter in sorted(self.counters.items()) if counter.changed]
        _save(self.connection, changed)
        counters.open_or_close(self.connection, [counter for counter in changed if counter.closed], -1)
        identities.add_to_counts(self.connection, self.more)


def _check_values(one: SentClassification, complete: bool) -> None:
    """Raise GreenpeaError for what one of the databases would not keep, or would not give back."""
    try:
        if complete and str(uuids.UUID(one.uuid)) != one.uuid.lower():
            raise ValueError
    except ValueError:
        raise GreenpeaError(f"{one.uuid[:80]!r} is not a UUID such as {uuids.UUID(int=0)}") from None
    fitting(one.uuid, LONGEST_ID, "an id")
    for when in (one.started_at, one.finished_at):
        try:
            if when is not None and (when.tzinfo is None or not 1 < when.astimezone(UTC).year < 9999):
                raise OverflowError
        except OverflowError:
            raise GreenpeaError(f"{when} is not a time in a time zone that a calendar has") from None
    if not all(abs(number or 0) < limit for number, limit in ((one.handout, 2**63), (one.round, 2**31))):
        raise GreenpeaError("the hand-out or the round has a number that there cannot be")
    if one.probability is not None and not 0 <= one.probability <= 1:
        raise GreenpeaError(f"a probability is between 0 and 1, not {one.probability}")
    try:
        json.dumps(dict(one.metadata), allow_nan=False)
        json.dumps(dict(one.metadata), ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise GreenpeaError(f"the metadata cannot be kept as JSON: {error}") from error


def _locked(connection: Connection, places: set[Place]) -> dict[Place, _Counter]:
    """Return the counters of (major, subject) pairs, locked until the transaction ends."""
    rows = connection.execute(
        LOCKED,
        {"majors": padded({major for major, _ in places}), "subjects": padded({subject for _, subject in places})},
    )
    return {
        (row.major, row.subject): _Counter(
            row.major,
            row.subject,
            row.pool,
            row.gold,
            row.classifications,
            dict(row.tally),
            row.retired_at,
            row.reason,
            row.retired_by,
        )
        for row in rows
    }


# Made once: to build a statement costs as much as to run it.
STORED = select(
    classifications.c.uuid,
    classifications.c.volunteer,
    classifications.c.subject,
    classifications.c.counted,
    classifications.c.after_retirement,
).where(classifications.c.uuid.in_(bindparam("ids", expanding=True)))
LIVE_ONES = select(classifications.c.volunteer, classifications.c.major, classifications.c.subject).where(
    classifications.c.volunteer.in_(bindparam("volunteers", expanding=True)),
    classifications.c.major.in_(bindparam("majors", expanding=True)),
    classifications.c.subject.in_(bindparam("subjects", expanding=True)),
    classifications.c.counted.in_(LIVE),
)
LOCKED = (
    select(progress, subjects.c.gold)
    .join(subjects, subjects.c.id == progress.c.subject)
    .where(
        progress.c.major.in_(bindparam("majors", expanding=True)),
        progress.c.subject.in_(bindparam("subjects", expanding=True)),
    )
    .order_by(progress.c.major, progress.c.subject)
    .with_for_update(of=progress)
)
INSERT = insert(classifications)
CLOSED_BY = ("volunteer", "subject", "major", "received_at")
CLOSE = (  # every open hand-out of the volunteer on the subject: after a merge there may be two
    update(handouts)
    .where(
        handouts.c.volunteer == bindparam("b_volunteer"),
        handouts.c.subject == bindparam("b_subject"),
        handouts.c.major == bindparam("b_major"),
        handouts.c.closed_at.is_(None),
    )
    .values(closed_at=bindparam("b_received_at"))
)
SAVE = (
    update(progress)
    .where((progress.c.major == bindparam("m")) & (progress.c.subject == bindparam("s")))
    .values({name: bindparam(name) for name in ("classifications", "tally", "retired_at", "reason", "retired_by")})
)


def _save(connection: Connection, changed: Sequence[_Counter]) -> None:
    if changed:
        values = [
            {
                "m": one.major,
                "s": one.subject,
                "classifications": one.classifications,
                "tally": one.tally,
                "retired_at": one.retired_at,
                "reason": one.reason,
                "retired_by": one.retired_by,
            }
            for one in changed
        ]
        connection.execute(SAVE, values)


def _row(
    one: SentClassification, volunteer: int, major: int, counted: Counted, late: bool, now: datetime
) -> dict[str, Any]:
    return {
        "uuid": one.uuid,
        "volunteer": volunteer,
        "subject": one.subject,
        "major": major,
        "version": one.version,
        "annotations": {question: list(answers) for question, answers in one.annotations.items()},
        "counted": counted.value,
        "after_retirement": late,
        "stream": Stream(one.stream).value,
        "round": one.round,
        "probability": one.probability,
        "handout": one.handout,
        "started_at": one.started_at,
        "finished_at": one.finished_at,
        "received_at": now,
        "metadata": dict(one.metadata),
    }


# ---- counting less, counting again -------------------------------------------------------------------


def uncount(
    connection: Connection, parsed: dict[int, Workflow], rows: Sequence[Row[Any]], state: Counted, now: datetime
) -> None:
    """Take counted classifications (rows) out of the counts and mark them; what retired by votes may come back."""
    _change(connection, parsed, rows, state, -1, now)


def count_again(connection: Connection, parsed: dict[int, Workflow], rows: Sequence[Row[Any]], now: datetime) -> None:
    """Count classifications (rows) that were not counted."""
    _change(connection, parsed, rows, Counted.YES, 1, now)


def _change(
    connection: Connection,
    parsed: dict[int, Workflow],
    rows: Sequence[Row[Any]],
    state: Counted,
    sign: int,
    now: datetime,
) -> None:
    ordered = sorted(rows, key=lambda row: (row.major, row.subject, row.id))
    for start in range(0, len(ordered), BLOCK):
        _change_some(connection, parsed, ordered[start : start + BLOCK], state, sign, now)


def _change_some(
    connection: Connection,
    parsed: dict[int, Workflow],
    rows: Sequence[Row[Any]],
    state: Counted,
    sign: int,
    now: datetime,
) -> None:
    found = _locked(connection, {(row.major, row.subject) for row in rows})
    # Read again now that they are locked: somebody else may have changed them in between.
    still = {"ids": padded([row.id for row in rows]), "states": LIVE if sign < 0 else (Counted.BANNED.value,)}
    ids: dict[str, list[int]] = {}
    more: dict[int, int] = {}
    for row in connection.execute(STILL, still).all():
        counter = found[row.major, row.subject]
        gold = counter.gold is not None if sign > 0 else row.counted == Counted.GOLD
        if not gold:
            walks.add(counter.tally, row.annotations, sign)
            counter.classifications += sign
            counter.changed = True
        ids.setdefault((Counted.GOLD if gold and sign > 0 else state).value, []).append(row.id)
        more[row.volunteer] = more.get(row.volunteer, 0) + sign
    for value, marked in ids.items():
        connection.execute(update(classifications).where(classifications.c.id.in_(marked)).values(counted=value))
    identities.add_to_counts(connection, more)
    _, rules = rules_of(connection, parsed)
    _rejudge(connection, [counter for _, counter in sorted(found.items()) if counter.changed], rules, now)


STILL = (
    select(classifications)
    .where(
        classifications.c.id.in_(bindparam("ids", expanding=True)),
        classifications.c.counted.in_(bindparam("states", expanding=True)),
    )
    .order_by(classifications.c.id)
    .with_for_update()
)


def _rejudge(connection: Connection, changed: Sequence[_Counter], rules: dict[int, Workflow], now: datetime) -> None:
    opened, closed = [], []
    for one in changed:
        reason = retirement.decide(rules[one.major].retirement, one.classifications, one.tally, one.pool == "audit")
        if reason and one.retired_at is None:
            one.retired_at, one.reason, one.retired_by = now, reason, "rule"
            closed.append(one)
        elif not reason and one.retired_by == "rule":
            one.retired_at = one.reason = one.retired_by = None
            opened.append(one)
    _save(connection, changed)
    counters.open_or_close(connection, opened, 1)
    counters.open_or_close(connection, closed, -1)


# ---- reading -----------------------------------------------------------------------------------------


def _all() -> Select[Any]:
    return (
        select(classifications, subjects.c.subject_id, versions.c.minor, *identities.COLUMNS)
        .select_from(classifications)
        .join(subjects, subjects.c.id == classifications.c.subject)
        .join(versions, versions.c.id == classifications.c.version)
        .join(volunteers, volunteers.c.id == classifications.c.volunteer)
    )


def _stored(row: Row[Any]) -> Stored:
    return Stored(
        id=row.id,
        uuid=row.uuid,
        subject_id=row.subject_id,
        subject=row.subject,
        volunteer=identities.volunteer_of(row),
        version=f"{row.major}.{row.minor}",
        annotations=row.annotations,
        counted=Counted(row.counted),
        after_retirement=row.after_retirement,
        stream=Stream(row.stream),
        round=row.round,
        probability=row.probability,
        started_at=row.started_at,
        finished_at=row.finished_at,
        received_at=row.received_at,
        metadata=row.metadata,
    )


def _differences(connection: Connection) -> int:
    counts: dict[Place, tuple[int, Tally]] = {}
    table = classifications.c
    raw = select(table.major, table.subject, table.annotations).where(table.counted == Counted.YES.value)
    for row in connection.execute(raw, execution_options={"yield_per": BLOCK}):
        number, tally = counts.get((row.major, row.subject), (0, {}))
        walks.add(tally, row.annotations)
        counts[row.major, row.subject] = number + 1, tally
    wrong = 0
    kept = select(progress.c.major, progress.c.subject, progress.c.classifications, progress.c.tally)
    for major, subject, classified, kept_tally in connection.execute(kept, execution_options={"yield_per": BLOCK}):
        number, tally = counts.pop((major, subject), (0, {}))
        wrong += classified != number or dict(kept_tally) != tally
    known = {(row.major, row.pool): (row.total, row.open) for row in connection.execute(select(pools))}
    found = counters.open_pools(connection)
    wrong += sum(known.get(pool) != found.get(pool) for pool in {*known, *found})
    live = select(table.volunteer, func.count()).where(table.counted.in_(LIVE)).group_by(table.volunteer)
    by_volunteer: dict[int, int] = dict(connection.execute(live).all())
    for id, number in connection.execute(select(volunteers.c.id, volunteers.c.count)):
        wrong += number != by_volunteer.get(id, 0)
    return wrong + len(counts)


def repeated(connection: Connection, volunteer: int, other: int) -> list[tuple[Row[Any], Row[Any]]]:
    """Return the pairs of counted classifications that two volunteers made of one subject, in order of arrival."""
    mine = connection.execute(
        select(classifications).where((classifications.c.volunteer == volunteer) & classifications.c.counted.in_(LIVE))
    ).all()
    theirs: dict[Place, Row[Any]] = {}
    for start in range(0, len(mine), BLOCK):
        query = select(classifications).where(
            classifications.c.volunteer == other,
            classifications.c.subject.in_([row.subject for row in mine[start : start + BLOCK]]),
            classifications.c.counted.in_(LIVE),
        )
        theirs |= {(row.major, row.subject): row for row in connection.execute(query)}
    pairs = [(row, theirs[row.major, row.subject]) for row in mine if (row.major, row.subject) in theirs]
    return [(a, b) if (a.received_at, a.id) <= (b.received_at, b.id) else (b, a) for a, b in pairs]
