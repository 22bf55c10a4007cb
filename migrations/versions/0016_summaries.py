"""Summaries of episodes in the full-text index: the view of their texts has them in the column `reflection`.

A column of its own would index every text again. An episode without a summary has the text that is indexed already.
"""

from __future__ import annotations

from alembic import context

from memory_storage.schema import batch
from memory_storage.schema.ddl import CreateView

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def views() -> tuple[CreateView, CreateView]:
    """The view of the heads of episodes, as revision 0009 has it, and with summaries."""
    made = context.script.get_revision("0009").module
    (old,) = [view for view in made.VIEWS if view.name == "episode_head_text"]
    texts = {name: made.spelled(name, sql) for name, sql in made.HEAD.items()}
    written = made.joined(
        *made.fields("summary.text"),
        made.lists("summary.key_steps", "summary.key_concepts"),
    )
    # Without a summary the text is, to the byte, the one in the index. No phrase crosses its beginning.
    summary = f"' {made.FIELD_END} ' || {made.spelled('summary', written)}"
    texts["reflection"] += f" || CASE WHEN json_type(document, '$.summary') = 'object' THEN {summary} ELSE '' END"
    select = f"SELECT seq,\n        {made.columns(texts)}\n    FROM {made.readable('episodes')}"
    return old, CreateView(old.name, select)


def upgrade() -> None:
    """Replace the view. No episode has a summary yet."""
    old, new = views()
    batch.execute((f"DROP VIEW {old.name}", new))


def downgrade() -> None:
    """Remove the summaries, which older versions cannot read, and bring back the view."""
    old, _ = views()
    batch.execute(
        (
            # By the new view: a text leaves the index as it entered it.
            """UPDATE episodes SET document = json_remove(document, '$.summary'),
            words = nullif(json_remove(words, '$.summary'), '{}')
        WHERE CASE WHEN json_valid(document) THEN json_type(document, '$.summary') IS NOT NULL END""",
            f"DROP VIEW {old.name}",
            old,
            # A server finds only what is in the index.
            "INSERT INTO index_changes VALUES (1)",
        )
    )
