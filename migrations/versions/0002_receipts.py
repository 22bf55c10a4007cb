"""Receipts: a row for each write over a network, to find out whether it was committed when its answer is lost."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.execute("CREATE TABLE receipts (id BLOB NOT NULL, changed INTEGER NOT NULL, PRIMARY KEY (id)) WITHOUT ROWID")


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TABLE receipts")
