"""${message}."""

from __future__ import annotations

from alembic import op
${imports if imports else ""}
revision = "${up_revision}"
down_revision = ${'"' + down_revision + '"' if down_revision else None}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Say what it makes."""
    ${upgrades if upgrades else 'op.execute("")'}


def downgrade() -> None:
    """Say what it takes back, and what is lost."""
    ${downgrades if downgrades else 'op.execute("")'}
