"""The tables. Counters stand in `progress`, one row per subject and major version; the rest is raw and kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# SQLite counts rows up by itself only where the key is INTEGER.
Key = BigInteger().with_variant(Integer, "sqlite")


class Instant(TypeDecorator[datetime]):
    """A moment in UTC, kept as whole microseconds since 1970: exact, ordered, the same on every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        return None if value is None else EPOCH + timedelta(microseconds=value)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

meta = Table("meta", metadata, Column("key", String(64), primary_key=True), Column("value", Text, nullable=False))

versions = Table(
    "versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("major", Integer, nullable=False),
    Column("minor", Integer, nullable=False),
    Column("content", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("author", String(200)),
    Column("active", Boolean, nullable=False),
    Index("uq_versions_major_minor", "major", "minor", unique=True),
)

volunteers = Table(
    "volunteers",
    metadata,
    Column("id", Key, primary_key=True),
    Column("public", String(36), nullable=False, unique=True),
    Column("source", String(300), unique=True),
    Column("name", String(100)),
    Column("name_key", String(300), unique=True),  # the name, in the form in which two may not be alike
    Column("email", String(320)),
    Column("email_key", String(320), index=True),
    Column("password", String(300)),
    Column("role", String(20), nullable=False, server_default="volunteer"),
    Column("language", String(20), nullable=False, server_default="en"),
    Column("credited", Boolean, nullable=False, server_default=text("true")),
    Column("created_at", Instant, nullable=False),
    Column("banned_at", Instant),
    Column("deleted_at", Instant),
    Column("merged_into", Key, ForeignKey("volunteers.id")),
    Column("count", Integer, nullable=False, server_default="0"),
)

subjects = Table(
    "subjects",
    metadata,
    Column("id", Key, primary_key=True, autoincrement=False),
    Column("subject_id", String(500), nullable=False, unique=True),
    Column("images", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("gold", JSON(none_as_null=True)),
    Column("pool", String(10), nullable=False),  # main, audit or gold
    Column("place", Integer, nullable=False),  # 0, 1, 2, … within the pool: a random place is a random subject
    Column("created_at", Instant, nullable=False),
    Index("uq_subjects_pool_place", "pool", "place", unique=True),
)

pools = Table(
    "pools",
    metadata,
    Column("major", Integer, primary_key=True),
    Column("pool", String(10), primary_key=True),
    Column("total", Integer, nullable=False),
    Column("open", Integer, nullable=False),  # not retired
)

progress = Table(
    "progress",
    metadata,
    Column("major", Integer, primary_key=True),
    Column("subject", Key, ForeignKey("subjects.id"), primary_key=True),
    Column("pool", String(10), nullable=False),
    Column("place", Integer, nullable=False),
    Column("classifications", Integer, nullable=False),
    Column("tally", JSON, nullable=False),
    Column("retired_at", Instant),
    Column("reason", String(200)),
    Column("retired_by", String(20)),  # rule, posterior or person: only a rule's can be taken back by votes
    CheckConstraint("classifications >= 0", name="not_negative"),
    sqlite_with_rowid=False,
)
Index(
    "ix_progress_open",
    progress.c.pool,
    progress.c.place,
    progress.c.major,
    sqlite_where=text("retired_at IS NULL"),
    postgresql_where=text("retired_at IS NULL"),
)
Index(
    "ix_progress_retired_at",
    progress.c.major,
    progress.c.retired_at,
    sqlite_where=text("retired_at IS NOT NULL"),
    postgresql_where=text("retired_at IS NOT NULL"),
)

classifications = Table(
    "classifications",
    metadata,
    Column("id", Key, primary_key=True),
    Column("uuid", String(64), nullable=False, unique=True),
    Column("volunteer", Key, ForeignKey("volunteers.id"), nullable=False),
    Column("subject", Key, ForeignKey("subjects.id"), nullable=False),
    Column("major", Integer, nullable=False),
    Column("version", Integer, ForeignKey("versions.id"), nullable=False),
    Column("annotations", JSON, nullable=False),
    Column("counted", String(10), nullable=False),
    Column("after_retirement", Boolean, nullable=False),
    Column("stream", String(10), nullable=False),
    Column("round", Integer),
    Column("probability", Float),
    Column("handout", Key),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Column("received_at", Instant, nullable=False),
    Column("metadata", JSON, nullable=False),
    Index("ix_classifications_seen", "volunteer", "major", "subject", "counted"),
    Index("ix_classifications_subject", "subject", "major"),
    Index("ix_classifications_received_at", "received_at"),
)
_live = text("counted IN ('counted', 'gold')")
Index(
    "uq_classifications_once",  # the promise itself: one that counts per volunteer, major version and subject
    classifications.c.volunteer,
    classifications.c.major,
    classifications.c.subject,
    unique=True,
    sqlite_where=_live,
    postgresql_where=_live,
)

handouts = Table(
    "handouts",
    metadata,
    Column("id", Key, primary_key=True),
    Column("volunteer", Key, ForeignKey("volunteers.id"), nullable=False),
    Column("subject", Key, ForeignKey("subjects.id"), nullable=False),
    Column("major", Integer, nullable=False),
    Column("version", Integer, ForeignKey("versions.id"), nullable=False),
    Column("stream", String(10), nullable=False),
    Column("round", Integer),
    Column("probability", Float),
    Column("handed_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("closed_at", Instant),
)
_open = text("closed_at IS NULL")
Index(
    "ix_handouts_open_subject",
    handouts.c.subject,
    handouts.c.major,
    handouts.c.expires_at,
    sqlite_where=_open,
    postgresql_where=_open,
)
Index(
    "ix_handouts_open_volunteer",
    handouts.c.volunteer,
    handouts.c.expires_at,  # those that ran out stay open, and need not be read
    sqlite_where=_open,
    postgresql_where=_open,
)

rounds = Table(
    "rounds",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("major", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("model", String(100), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("complete", Boolean, nullable=False),  # every rank is written
)

ranks = Table(
    "ranks",
    metadata,
    Column("round", Integer, ForeignKey("rounds.id"), primary_key=True),
    Column("subject", Key, ForeignKey("subjects.id"), primary_key=True),
    Column("rank", Integer, nullable=False),
    Column("score", Float, nullable=False),
    Column("probability", Float),
    Column("open", Boolean, nullable=False),  # not retired, and asked less often than was meant
    Column("left", Integer, nullable=False, server_default=text("2147483647")),  # how often it is still to be asked
    Index("ix_ranks_subject", "subject"),
    sqlite_with_rowid=False,
)
Index(
    "ix_ranks_open",
    ranks.c.round,
    ranks.c.rank,
    sqlite_where=text("open = 1"),
    postgresql_where=text("open"),
)

active_round = Table(
    "active_round",
    metadata,
    Column("id", Integer, primary_key=True),  # one row
    Column("round", Integer, ForeignKey("rounds.id")),
    Column("changed_at", Instant, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token", String(64), primary_key=True),  # its hash
    Column("volunteer", Key, ForeignKey("volunteers.id"), nullable=False, index=True),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False, index=True),
)

tokens = Table(
    "tokens",
    metadata,
    Column("token", String(64), primary_key=True),  # its hash
    Column("kind", String(10), nullable=False),  # reset or invite
    Column("volunteer", Key, ForeignKey("volunteers.id"), index=True),
    Column("role", String(20)),
    Column("expires_at", Instant, nullable=False),
)

favourites = Table(
    "favourites",
    metadata,
    Column("volunteer", Key, ForeignKey("volunteers.id"), primary_key=True),
    Column("subject", Key, ForeignKey("subjects.id"), primary_key=True),
    Column("created_at", Instant, nullable=False),
)

finds = Table(
    "finds",
    metadata,
    Column("id", Key, primary_key=True),
    Column("uuid", String(64), nullable=False, unique=True),
    Column("volunteer", Key, ForeignKey("volunteers.id"), nullable=False, index=True),
    Column("subject", Key, ForeignKey("subjects.id"), nullable=False, index=True),
    Column("comment", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("hidden", Boolean, nullable=False),
)

likes = Table(
    "likes",
    metadata,
    Column("find", Key, ForeignKey("finds.id"), primary_key=True),
    Column("volunteer", Key, ForeignKey("volunteers.id"), primary_key=True, index=True),
)
