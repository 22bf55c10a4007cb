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
    "CREATE INDEX ix_unlearned_namespace ON unlearned (namespace)",
)
NAMES = ("unlearned", "learned", "sequences", "learning")

OF_LEARNED = "(namespace, number) IN (SELECT OLD.namespace, value FROM json_each(OLD.numbers))"
OF_STEP = "e.namespace = {0}.namespace AND e.id = {0}.episode_id"


def note(episodes: str) -> list[str]:
    """The statements that note episodes to be learned again, if their namespace is learned at all.

    The mark is another one each time: what changes again while it is learned stays noted.
    """
    chosen = f"""FROM episodes AS e CROSS JOIN learning AS l ON l.namespace = e.namespace
        WHERE {episodes} AND (e.outcome IS NOT NULL OR EXISTS (SELECT 1 FROM learned WHERE episode_seq = e.seq))"""
    return [
        f"DELETE FROM unlearned WHERE episode_seq IN (SELECT e.seq {chosen})",
        f"INSERT INTO unlearned (episode_seq, namespace, mark) SELECT e.seq, e.namespace, random() {chosen}",
    ]


def changed(*names: str) -> str:
    """SQL for whether an update changes one of these columns."""
    return " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in names)


COUNTED_COLUMNS = ("domain", "language", "framework", "task_type", "outcome", "completed_at")
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
    # The log of what is to be indexed does not name these changes, which add no word.
    CreateTrigger(
        "episodes_learned_update",
        f"AFTER UPDATE OF {', '.join(COUNTED_COLUMNS)} ON episodes",
        note("e.seq = NEW.seq"),
        when=changed(*COUNTED_COLUMNS),
    ),
    CreateTrigger(
        "steps_learned_update",
        "AFTER UPDATE OF step_number, status ON steps",
        note(OF_STEP.format("NEW")),
        when=changed("step_number", "status"),
    ),
    CreateTrigger("steps_learned_delete", "AFTER DELETE ON steps", note(OF_STEP.format("OLD"))),
)


def index_trigger(*, notes: bool) -> CreateTrigger:
    """The trigger that indexes changed episodes, as revision 0010 has it, or one that notes them first."""
    made = context.script.get_revision("0010").module
    (trigger,) = [one for one in made.INDEXING if isinstance(one, CreateTrigger)]
    if not notes:
        return trigger
    return CreateTrigger(
        trigger.name, trigger.event, [*note("e.seq IN (SELECT episode_seq FROM episode_changes)"), *trigger.body]
    )


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
    """Drop the counts, and what an older version cannot read: playbooks, and the statistics of patterns."""
    batch.execute(
        (
            "DELETE FROM patterns WHERE kind = 'playbook'",
            """UPDATE patterns SET document = json_remove(document, '$.statistics')
        WHERE CASE WHEN json_valid(document) THEN json_type(document, '$.statistics') IS NOT NULL END""",
            f"DROP TRIGGER {index_trigger(notes=True).name}",
            index_trigger(notes=False),
            *(f"DROP TRIGGER {one.name}" for one in TRIGGERS),
            *(f"DROP TABLE {name}" for name in NAMES),
        )
    )
