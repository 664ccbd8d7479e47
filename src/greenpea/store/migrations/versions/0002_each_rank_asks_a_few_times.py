"""Each rank is handed out a few times only: then the queue goes on to the next."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ranks", sa.Column("left", sa.Integer(), server_default=sa.text("2147483647"), nullable=False))


def downgrade() -> None:
    op.drop_column("ranks", "left")
