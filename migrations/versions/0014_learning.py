"""Counts of what episodes have in common, so that learning reads only what has changed.

What each episode was counted for is kept, so that its deletion takes exactly that back. Episodes that have changed are
noted when they are indexed, many at a time: a save does nothing more than before.
"""

from __future__ import annotations

from collections.abc import Iterator

from alembic import context

from memory_storage.schema import batch
from memory_storage.schema.ddl import CreateTrigger

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

TABLES = (
    """CREATE TABLE learning (
        namespace TEXT NOT NULL,
        revision INTEGER NOT NULL,
        next_number INTEGER NOT NULL,
        is_built INTEGER NOT NULL,
        PRIMARY KEY (namespace)
    )
     WITHOUT ROWID""",
    """CREATE TABLE sequences (
        namespace TEXT NOT NULL,
        kind INTEGER NOT NULL,
        content TEXT NOT NULL,
        domain TEXT NOT NULL,
        language TEXT NOT NULL,
        framework TEXT NOT NULL,
        task_type TEXT NOT NULL,
        number INTEGER NOT NULL,
        episodes INTEGER NOT NULL,
        successes INTEGER NOT NULL,
        weight FLOAT NOT NULL,
        success_weight FLOAT NOT NULL,
        evidence TEXT NOT NULL,
        counterexamples TEXT NOT NULL,
        PRIMARY KEY (namespace, kind, content, domain, language, framework, task_type)
    )
     WITHOUT ROWID""",
    "CREATE UNIQUE INDEX ux_sequences_number ON sequences (namespace, number)",
    """CREATE TABLE learned (
        episode_seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        success INTEGER NOT NULL,
        weight FLOAT NOT NULL,
        numbers TEXT NOT NULL,
        PRIMARY KEY (episode_seq)
    )""",
    "CREATE INDEX ix_learned_namespace ON learned (namespace)",
    """CREATE TABLE unlearned (
        episode_seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        mark INTEGER NOT NULL,
        PRIMARY KEY (episode_seq)
    )""",
    "CREATE INDEX ix_unlearned_namespace ON unlearned (namespace, mark)",
)
NAMES = ("unlearned", "learned", "sequences", "learning")

OF_LEARNED = "(namespace, number) IN (SELECT OLD.namespace, value FROM json_each(OLD.numbers))"
TRIGGERS = (
    CreateTrigger(
        "learned_delete",
        "AFTER DELETE ON learned",
        [
            f"""UPDATE sequences SET episodes = episodes - 1, successes = successes - OLD.success,
            weight = weight - OLD.weight, success_weight = success_weight - OLD.success * OLD.weight,
            evidence = replace(evidence, ',' || OLD.episode_seq || ',', ','),
            counterexamples = replace(counterexamples, ',' || OLD.episode_seq || ',', ',')
        WHERE {OF_LEARNED}""",
            f"DELETE FROM sequences WHERE {OF_LEARNED} AND episodes <= 0",
        ],
    ),
    CreateTrigger(
        "episodes_learned_delete",
        "AFTER DELETE ON episodes",
        [
            "DELETE FROM learned WHERE episode_seq = OLD.seq",
            "DELETE FROM unlearned WHERE episode_seq = OLD.seq",
        ],
    ),
    # What adds or changes a step is logged as a change of the episode; what removes one is not.
    CreateTrigger(
        "steps_learned_delete",
        "AFTER DELETE ON steps",
        [
            """INSERT INTO episode_changes (episode_seq)
        SELECT e.seq FROM episodes AS e CROSS JOIN learned AS l ON l.episode_seq = e.seq
        WHERE e.namespace = OLD.namespace AND e.id = OLD.episode_id""",
        ],
    ),
)
NOTE = (
    "DELETE FROM unlearned WHERE episode_seq IN (SELECT episode_seq FROM episode_changes)",
    """INSERT INTO unlearned (episode_seq, namespace, mark)
        SELECT e.seq, e.namespace, max(c.mark) FROM episode_changes AS c
        CROSS JOIN episodes AS e ON e.seq = c.episode_seq CROSS JOIN learning AS l ON l.namespace = e.namespace
        WHERE e.outcome IS NOT NULL OR EXISTS (SELECT 1 FROM learned WHERE episode_seq = e.seq)
        GROUP BY e.seq""",
)


def index_trigger(*, notes: bool) -> CreateTrigger:
    """The trigger that indexes changed episodes, as revision 0010 has it, or one that notes them first."""
    made = context.script.get_revision("0010").module
    (trigger,) = [one for one in made.INDEXING if isinstance(one, CreateTrigger)]
    if not notes:
        return trigger
    return CreateTrigger(trigger.name, trigger.event, [*NOTE, *trigger.body])


def upgrade() -> None:
    """Create the tables, and have changed episodes noted."""
    batch.execute(statements())


def statements() -> Iterator[object]:
    """What the upgrade runs."""
    yield from TABLES
    yield from TRIGGERS
    yield f"DROP TRIGGER {index_trigger(notes=True).name}"
    yield index_trigger(notes=True)


def downgrade() -> None:
    """Drop the counts: learning reads all episodes again."""
    batch.execute(
        (
            f"DROP TRIGGER {index_trigger(notes=True).name}",
            index_trigger(notes=False),
            *(f"DROP TRIGGER {one.name}" for one in TRIGGERS),
            *(f"DROP TABLE {name}" for name in NAMES),
        )
    )
