"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_meta")),
    )
    op.create_table(
        "pools",
        sa.Column("major", sa.Integer(), nullable=False),
        sa.Column("pool", sa.String(length=10), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("open", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("major", "pool", name=op.f("pk_pools")),
    )
    op.create_table(
        "rounds",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("major", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(length=100), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rounds")),
    )
    op.create_table(
        "subjects",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("subject_id", sa.String(length=500), nullable=False),
        sa.Column("images", sa.JSON(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("gold", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("pool", sa.String(length=10), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subjects")),
        sa.UniqueConstraint("subject_id", name=op.f("uq_subjects_subject_id")),
    )
    op.create_index("uq_subjects_pool_place", "subjects", ["pool", "place"], unique=True)

    op.create_table(
        "versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("major", sa.Integer(), nullable=False),
        sa.Column("minor", sa.Integer(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("author", sa.String(length=200), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_versions")),
    )
    op.create_index("uq_versions_major_minor", "versions", ["major", "minor"], unique=True)

    op.create_table(
        "volunteers",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("public", sa.String(length=36), nullable=False),
        sa.Column("source", sa.String(length=300), nullable=True),
        sa.Column("name", sa.String(length=100), nullable=True),
        sa.Column("name_key", sa.String(length=300), nullable=True),
        sa.Column("email", sa.String(length=320), nullable=True),
        sa.Column("email_key", sa.String(length=320), nullable=True),
        sa.Column("password", sa.String(length=300), nullable=True),
        sa.Column("role", sa.String(length=20), server_default="volunteer", nullable=False),
        sa.Column("language", sa.String(length=20), server_default="en", nullable=False),
        sa.Column("credited", sa.Boolean(), server_default=sa.text("(true)"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("banned_at", sa.BigInteger(), nullable=True),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.Column("merged_into", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("count", sa.Integer(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["merged_into"], ["volunteers.id"], name=op.f("fk_volunteers_merged_into_volunteers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_volunteers")),
        sa.UniqueConstraint("name_key", name=op.f("uq_volunteers_name_key")),
        sa.UniqueConstraint("public", name=op.f("uq_volunteers_public")),
        sa.UniqueConstraint("source", name=op.f("uq_volunteers_source")),
    )
    op.create_index("ix_volunteers_email_key", "volunteers", ["email_key"], unique=False)

    op.create_table(
        "active_round",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=True),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["round"], ["rounds.id"], name=op.f("fk_active_round_round_rounds")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_active_round")),
    )
    op.create_table(
        "classifications",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("uuid", sa.String(length=64), nullable=False),
        sa.Column("volunteer", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("subject", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("major", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("annotations", sa.JSON(), nullable=False),
        sa.Column("counted", sa.String(length=10), nullable=False),
        sa.Column("after_retirement", sa.Boolean(), nullable=False),
        sa.Column("stream", sa.String(length=10), nullable=False),
        sa.Column("round", sa.Integer(), nullable=True),
        sa.Column("probability", sa.Float(), nullable=True),
        sa.Column("handout", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["subject"], ["subjects.id"], name=op.f("fk_classifications_subject_subjects")),
        sa.ForeignKeyConstraint(["version"], ["versions.id"], name=op.f("fk_classifications_version_versions")),
        sa.ForeignKeyConstraint(["volunteer"], ["volunteers.id"], name=op.f("fk_classifications_volunteer_volunteers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_classifications")),
        sa.UniqueConstraint("uuid", name=op.f("uq_classifications_uuid")),
    )
    op.create_index("ix_classifications_received_at", "classifications", ["received_at"], unique=False)
    op.create_index(
        "ix_classifications_seen", "classifications", ["volunteer", "major", "subject", "counted"], unique=False
    )
    op.create_index("ix_classifications_subject", "classifications", ["subject", "major"], unique=False)
    op.create_index(
        "uq_classifications_once",
        "classifications",
        ["volunteer", "major", "subject"],
        unique=True,
        sqlite_where=sa.text("counted IN ('counted', 'gold')"),
        postgresql_where=sa.text("counted IN ('counted', 'gold')"),
    )

    op.create_table(
        "favourites",
        sa.Column("volunteer", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("subject", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["subject"], ["subjects.id"], name=op.f("fk_favourites_subject_subjects")),
        sa.ForeignKeyConstraint(["volunteer"], ["volunteers.id"], name=op.f("fk_favourites_volunteer_volunteers")),
        sa.PrimaryKeyConstraint("volunteer", "subject", name=op.f("pk_favourites")),
    )
    op.create_table(
        "finds",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("uuid", sa.String(length=64), nullable=False),
        sa.Column("volunteer", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("subject", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("hidden", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["subject"], ["subjects.id"], name=op.f("fk_finds_subject_subjects")),
        sa.ForeignKeyConstraint(["volunteer"], ["volunteers.id"], name=op.f("fk_finds_volunteer_volunteers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_finds")),
        sa.UniqueConstraint("uuid", name=op.f("uq_finds_uuid")),
    )
    op.create_index("ix_finds_subject", "finds", ["subject"], unique=False)
    op.create_index("ix_finds_volunteer", "finds", ["volunteer"], unique=False)

    op.create_table(
        "handouts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("volunteer", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("subject", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("major", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("stream", sa.String(length=10), nullable=False),
        sa.Column("round", sa.Integer(), nullable=True),
        sa.Column("probability", sa.Float(), nullable=True),
        sa.Column("handed_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["subject"], ["subjects.id"], name=op.f("fk_handouts_subject_subjects")),
        sa.ForeignKeyConstraint(["version"], ["versions.id"], name=op.f("fk_handouts_version_versions")),
        sa.ForeignKeyConstraint(["volunteer"], ["volunteers.id"], name=op.f("fk_handouts_volunteer_volunteers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_handouts")),
    )
    op.create_index(
        "ix_handouts_open_subject",
        "handouts",
        ["subject", "major", "expires_at"],
        unique=False,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_index(
        "ix_handouts_open_volunteer",
        "handouts",
        ["volunteer", "expires_at"],
        unique=False,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    )

    op.create_table(
        "progress",
        sa.Column("major", sa.Integer(), nullable=False),
        sa.Column("subject", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("pool", sa.String(length=10), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("classifications", sa.Integer(), nullable=False),
        sa.Column("tally", sa.JSON(), nullable=False),
        sa.Column("retired_at", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.String(length=200), nullable=True),
        sa.Column("retired_by", sa.String(length=20), nullable=True),
        sa.CheckConstraint("classifications >= 0", name=op.f("ck_progress_not_negative")),
        sa.ForeignKeyConstraint(["subject"], ["subjects.id"], name=op.f("fk_progress_subject_subjects")),
        sa.PrimaryKeyConstraint("major", "subject", name=op.f("pk_progress")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_progress_open",
        "progress",
        ["pool", "place", "major"],
        unique=False,
        sqlite_where=sa.text("retired_at IS NULL"),
        postgresql_where=sa.text("retired_at IS NULL"),
    )
    op.create_index(
        "ix_progress_retired_at",
        "progress",
        ["major", "retired_at"],
        unique=False,
        sqlite_where=sa.text("retired_at IS NOT NULL"),
        postgresql_where=sa.text("retired_at IS NOT NULL"),
    )

    op.create_table(
        "ranks",
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("subject", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("probability", sa.Float(), nullable=True),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["round"], ["rounds.id"], name=op.f("fk_ranks_round_rounds")),
        sa.ForeignKeyConstraint(["subject"], ["subjects.id"], name=op.f("fk_ranks_subject_subjects")),
        sa.PrimaryKeyConstraint("round", "subject", name=op.f("pk_ranks")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_ranks_open",
        "ranks",
        ["round", "rank"],
        unique=False,
        sqlite_where=sa.text("open = 1"),
        postgresql_where=sa.text("open"),
    )
    op.create_index("ix_ranks_subject", "ranks", ["subject"], unique=False)

    op.create_table(
        "sessions",
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("volunteer", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["volunteer"], ["volunteers.id"], name=op.f("fk_sessions_volunteer_volunteers")),
        sa.PrimaryKeyConstraint("token", name=op.f("pk_sessions")),
    )
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"], unique=False)
    op.create_index("ix_sessions_volunteer", "sessions", ["volunteer"], unique=False)

    op.create_table(
        "tokens",
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("volunteer", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("role", sa.String(length=20), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["volunteer"], ["volunteers.id"], name=op.f("fk_tokens_volunteer_volunteers")),
        sa.PrimaryKeyConstraint("token", name=op.f("pk_tokens")),
    )
    op.create_index("ix_tokens_volunteer", "tokens", ["volunteer"], unique=False)

    op.create_table(
        "likes",
        sa.Column("find", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("volunteer", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(["find"], ["finds.id"], name=op.f("fk_likes_find_finds")),
        sa.ForeignKeyConstraint(["volunteer"], ["volunteers.id"], name=op.f("fk_likes_volunteer_volunteers")),
        sa.PrimaryKeyConstraint("find", "volunteer", name=op.f("pk_likes")),
    )
    op.create_index("ix_likes_volunteer", "likes", ["volunteer"], unique=False)


def downgrade() -> None:
    for table in (
        "likes",
        "tokens",
        "sessions",
        "ranks",
        "progress",
        "handouts",
        "finds",
        "favourites",
        "classifications",
        "active_round",
        "volunteers",
        "versions",
        "subjects",
        "rounds",
        "pools",
        "meta",
    ):
        op.drop_table(table)
