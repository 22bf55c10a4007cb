"""Applies to the file of a replica what it has pulled, and notes what the server has accepted.

One transaction has the rows, the number up to which they go, and the acknowledgements: a replica that is killed
resumes. What is applied is not logged as a change of this file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from memory_storage.dbapi import BatchStep
from memory_storage.models import Conflict, Embedding, Step
from memory_storage.repositories.retention.tombstones import (
    ADD_TOMBSTONES,
    FIND_TOMBSTONES,
    erase_traces,
    tombstone_forms,
)
from memory_storage.schema import unpack_vector
from memory_storage.schema.vector_tables import VectorSpace
from memory_storage.sql.episode_rows import STEP_ROW, decode_steps
from memory_storage.sql.statement import EPOCH, from_micros

from .counts import ASK_AGAIN, COUNTED, acknowledge
from .local import LocalTransaction, Sent, vector_of
from .merging import Base, Merged, Side, as_json, as_model, embedding_that_stands, is_same, merge, values_of
from .rows import (
    BASES,
    CHECKPOINT,
    EMBEDDING,
    EPISODE,
    FORGOTTEN,
    KINDS,
    PATTERN,
    PATTERN_COUNTERS,
    RELATIONSHIP,
    STEP,
    Change,
    Values,
    is_named,
)
from .server import Answer, Page
from .writing import apply_embeddings, apply_rows, delete_named

_ROWS_AT_ONCE = 250  # in one statement: after each, the thread that decodes the next page may take the interpreter


_IS_BASE = """b.kind = value ->> 0 AND b.namespace = value ->> 1 AND b."key" = value ->> 2"""
_DELETE_BASES = f"""DELETE FROM sync_bases WHERE (kind, namespace, "key", sent) IN (
    SELECT b.kind, b.namespace, b."key", b.sent FROM json_each(?) CROSS JOIN sync_bases AS b ON {_IS_BASE}{{0}})"""
_BASES_THAT_WERE_SENT = (
    f"UPDATE sync_bases AS b SET sent = 0 FROM json_each(?) WHERE {_IS_BASE} AND b.sent = value ->> 3"
)


@dataclass
class Tally:
    """What a sync has done: see `SyncReport`."""

    pushed: int = 0
    pulled: int = 0
    merged: int = 0
    conflicts: int = 0
    deleted: int = 0
    erased: int = 0


class Clash(NamedTuple):
    """A row that both sides have changed, for the policy that decides.

    Attributes:
        kind: The number of its kind.
        key: Its key.
        fields: The fields.
        base: JSON before both changes, or None.
        mine: JSON here; None if it is deleted here.
        theirs: JSON at the server; None if it is deleted there.
        their_writer: Who pushed it.
    """

    kind: int
    namespace: str
    key: str
    episode_id: str | None
    fields: list[str]
    base: str | None
    mine: str | None
    theirs: str | None
    their_writer: str | None


Decide = Callable[[Conflict], Any]
"""Returns which side stands where both have changed a field, "mine" or "theirs", or a merged episode or pattern."""


@dataclass
class Policy:
    """How clashes are decided.

    Attributes:
        prefer: The side that stands; the other one is kept as a conflict.
        writer: The name of this replica.
        now: The current time, in microseconds.
        decide: A function of the caller's instead, after which no conflict is kept.
    """

    prefer: Side
    writer: str
    now: Callable[[], int]
    decide: Decide | None = None


class Applier:
    """Applies pages in one transaction.

    Args:
        tx: The transaction.
        policy: How clashes are decided.
        spaces: Returns the model's space at the server, and its dimension, by the space's token.
        tally: Counts what is done.
        waits_for_owners: Whether a row without its owner comes again with it: during the first sync.
    """

    def __init__(
        self,
        tx: LocalTransaction,
        policy: Policy,
        spaces: Callable[[str], tuple[VectorSpace, int]],
        tally: Tally,
        *,
        waits_for_owners: bool = False,
    ) -> None:
        self._tx, self._policy, self._spaces, self._tally = tx, policy, spaces, tally
        self._waits_for_owners = waits_for_owners
        self._has_pending = bool(tx.read("SELECT 1 FROM sync_changes LIMIT 1"))
        self._has_forgotten = bool(tx.read("SELECT 1 FROM forgotten LIMIT 1"))

    def apply(self, page: Page) -> None:
        """Apply the changes of a page: first what is gone, then what is there, owners first."""
        digests = [one for one in page.changes if one.kind == FORGOTTEN]
        if digests:
            self._erase([bytes.fromhex(one.key) for one in digests])
        for kind in KINDS:
            gone = [one for one in page.changes if one.kind == kind and one.values is None]
            for change in gone:
                self.remove(change)
        for kind in KINDS:
            live = [one for one in page.changes if one.kind == kind and one.values is not None]
            for first in range(0, len(live), _ROWS_AT_ONCE):
                self._apply_live(kind, live[first : first + _ROWS_AT_ONCE], page)

    def remove(self, change: Change) -> None:
        """Delete a row that was deleted at the server. What was changed here is kept as a conflict."""
        kind = KINDS[change.kind]
        for seq, values in self._stored(change):
            if change.created_at is not None and values[kind.place("created_at")] != change.created_at:
                continue  # another row, which has the id since
            self._keep_deleted(change, seq, values)
            delete = BatchStep(f"DELETE FROM {kind.table} WHERE seq = ?", (seq,))
            self._tx.run([delete], changed=_episodes_of(change.kind, [values]))
            self._tally.deleted += 1

    def _stored(self, change: Change) -> list[tuple[int, Values]]:
        """Return the row of this file that a change names, with its number; none if there is none."""
        kind = KINDS[change.kind]
        rows = self._tx.read(
            f"SELECT r.seq, {kind.columns_of('r')}\nFROM json_each(?) CROSS JOIN {kind.table} AS r ON {is_named(kind)}",
            _as_keys([change]),
        )
        return [(seq, tuple(columns)) for seq, *columns in rows]

    def acknowledge(self, sent: Sequence[Sent], answer: Answer, steps: dict[tuple[str, str], str]) -> list[Sent]:
        """Note what the server has stored, and return what it has refused.

        Args:
            sent: What was pushed.
            answer: The server's answer.
            steps: The episodes of the steps that were pushed, by their namespace and id.
        """
        refused = [one for one in sent if one.is_row and one.name not in answer.accepted]
        not_stored = set(refused)
        stored = [one for one in sent if one not in not_stored]
        if stored:
            numbers = json.dumps([one.number for one in stored])
            rows = self._tx.read(
                "SELECT number FROM sync_changes WHERE number IN (SELECT value FROM json_each(?))", numbers
            )
            unchanged = {row[0] for row in rows}
            done = json.dumps([one.name for one in stored if one.number in unchanged])
            edited = json.dumps([(*one.name, one.number) for one in stored if one.number not in unchanged])
            self._tx.run(
                [
                    BatchStep("DELETE FROM sync_changes WHERE number IN (SELECT value FROM json_each(?))", (numbers,)),
                    BatchStep(_DELETE_BASES.format(""), (done,)),
                    # What was edited since it was sent has what was sent as its base.
                    BatchStep(_DELETE_BASES.format(" AND b.sent <> value ->> 3"), (edited,)),
                    BatchStep(_BASES_THAT_WERE_SENT, (edited,)),
                ]
            )
            self._tally.pushed += len(stored)
        numbered = [
            (namespace, steps[namespace, key], number, key)
            for (kind, namespace, key), number in answer.accepted.items()
            if kind == STEP and number is not None and (namespace, key) in steps
        ]
        self._number_steps(numbered)
        self._tx.run(list(acknowledge(answer.counts)) if answer.counts else [])
        return refused

    def _apply_live(self, kind: int, changes: Sequence[Change], page: Page) -> None:
        changes = self._with_owners(kind, self._without_deleted(kind, self._without_erased(kind, changes)))
        pending = self._pending(kind, changes)
        rows: list[Any] = []
        for change in changes:
            number = pending.get((change.namespace, change.key))
            values = change.values or ()
            rows.append(values if number is None else self._rebase(change, values, number, page))
        self._tally.pulled += len(rows)
        rows = [row for row in rows if row is not None]
        if kind == STEP:
            number, episode, step = (KINDS[STEP].place(name) for name in ("step_number", "episode_id", "id"))
            parked = self._make_room([(row[0], row[episode], row[number], row[step]) for row in rows])
        if kind == PATTERN:
            rows = self._with_counters(rows)
        if kind == RELATIONSHIP:
            self._replace_relationships(rows)
        if kind == EMBEDDING:
            self._apply_embeddings(rows, page)
        elif rows:
            self._tx.run([apply_rows(kind, rows)], changed=_episodes_of(kind, rows))
        if kind == STEP:
            self._fill_up(parked)

    # -- what is not applied ---------------------------------------------------------------------------------------

    def _without_erased(self, kind: int, changes: Sequence[Change]) -> Sequence[Change]:
        """Leave out what was erased here: its digest goes to the server, or is there."""
        if kind not in (EPISODE, PATTERN) or not self._has_forgotten or not changes:
            return changes
        forms = {form: change for change in changes for form in tombstone_forms(change.namespace, change.key)}
        found = self._tx.rows(FIND_TOMBSTONES.bind(digests=json.dumps(list(forms))))
        erased = {forms[row[0].lower()] for row in found}
        return [one for one in changes if one not in erased] if erased else changes

    def _without_deleted(self, kind: int, changes: Sequence[Change]) -> Sequence[Change]:
        """Leave out what was deleted here: that goes to the server."""
        if not self._has_pending or not changes:
            return changes
        rows = self._tx.read(
            f"""SELECT t.namespace, t."key", t.created_at FROM json_each(?) CROSS JOIN sync_changes AS t
    ON t.kind = {kind} AND t.namespace = value ->> 1 AND t."key" = value ->> 2""",
            _as_keys(changes),
        )
        deleted = {(row[0], row[1]): row[2] for row in rows}
        if not deleted:
            return changes
        one = KINDS[kind]
        created = one.place("created_at") if "created_at" in one.columns else None

        def is_deleted(change: Change) -> bool:
            key = (change.namespace, change.key)
            if key not in deleted:
                return False
            return created is None or deleted[key] == (change.values or ())[created]

        return [change for change in changes if not is_deleted(change)]

    def _with_owners(self, kind: int, changes: Sequence[Change]) -> Sequence[Change]:
        """Leave out rows without their owner. Their episodes are fetched, unless they come in any case."""
        if not changes or kind in (EPISODE, PATTERN):
            return changes
        owners_of = [_owners_of(change) for change in changes]
        owners = {owner for of_change in owners_of for owner in of_change}
        rows = self._tx.read(
            """SELECT DISTINCT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) WHERE CASE value ->> 1
    WHEN 'episode' THEN EXISTS (SELECT 1 FROM episodes WHERE namespace = value ->> 0 AND id = value ->> 2)
    WHEN 'step' THEN EXISTS (SELECT 1 FROM steps WHERE namespace = value ->> 0 AND id = value ->> 2)
    ELSE EXISTS (SELECT 1 FROM patterns WHERE namespace = value ->> 0 AND id = value ->> 2) END""",
            json.dumps(sorted(owners)),
        )
        present = {tuple(row) for row in rows}
        orphans = {owner for owner in owners if owner not in present and owner[1] == "episode"}
        if orphans and not self._waits_for_owners:
            self._tx.run(
                [
                    BatchStep(
                        """INSERT INTO sync_wanted (namespace, episode_id)
SELECT value ->> 0, value ->> 2 FROM json_each(?) WHERE true ON CONFLICT DO NOTHING""",
                        (json.dumps(sorted(orphans)),),
                    )
                ]
            )
        return [change for change, of_change in zip(changes, owners_of, strict=True) if present.issuperset(of_change)]

    # -- merging ---------------------------------------------------------------------------------------------------

    def _pending(self, kind: int, changes: Sequence[Change]) -> dict[tuple[str, str], int]:
        """Return the numbers of the changes here of these rows."""
        if not self._has_pending or not changes:
            return {}
        one = KINDS[kind]
        rows = self._tx.read(
            f"""SELECT r.namespace, {one.key_sql("r")}, c.number
FROM json_each(?) CROSS JOIN {one.table} AS r ON {is_named(one)}
    CROSS JOIN sync_changes AS c ON c.kind = {kind} AND c.seq = r.seq""",
            _as_keys(changes),
        )
        return {(row[0], row[1]): row[2] for row in rows}

    def _rebase(self, change: Change, theirs: Values, number: int, page: Page) -> Values | None:
        """Return what becomes of a row that was changed here too; None if it stays as it is."""
        kind = KINDS[change.kind]
        ((_, mine),) = self._stored(change)
        key = change.name
        if change.kind != EMBEDDING and is_same(change.kind, mine, theirs):
            self._forget_change(number, key)
            return theirs
        bases = [
            Base(*row)
            for row in self._tx.read(
                """SELECT sent, "columns", document, output FROM sync_bases
WHERE kind = ? AND namespace = ? AND "key" = ? ORDER BY sent""",
                *key,
            )
        ]
        if change.kind == EMBEDDING:
            return self._rebase_embedding(change, bases, mine, theirs, number, page)
        merged = merge(change.kind, bases, mine, theirs, self._policy.prefer)
        if merged.fields:
            merged = self._decide(change, bases, mine, theirs, merged)
        else:
            self._tally.merged += 1
        if change.kind == PATTERN:  # counters are not merged here: what was counted is on its way by itself
            counters = {name: theirs[kind.place(name)] for name in PATTERN_COUNTERS}
            merged = merged._replace(values=kind.replaced(merged.values, **counters))
        if is_same(change.kind, merged.values, theirs):
            self._forget_change(number, key)
            return theirs
        self._keep_base(number, key, theirs)
        return merged.values

    def _rebase_embedding(
        self, change: Change, bases: Sequence[Base], mine: Values, theirs: Values, number: int, page: Page
    ) -> Values | None:
        kind = KINDS[EMBEDDING]
        key = change.name
        my_vector = vector_of(self._tx, mine)
        their_vector = page.vectors.get((theirs[kind.place("space")], theirs[kind.place("vector_seq")]), b"")
        if my_vector != their_vector:
            if embedding_that_stands(bases, mine, theirs) == "mine":
                self._tally.merged += 1
                self._keep_base(number, key, theirs)
                return None
            if mine[kind.place("text_digest")] is None:  # a caller's, which cannot be computed again
                self._keep_vector(change, ["vector"], (mine, my_vector), _embedding_json(theirs, their_vector))
            else:
                self._tally.merged += 1
        self._forget_change(number, key)
        return theirs

    def _decide(self, change: Change, bases: Sequence[Base], mine: Values, theirs: Values, merged: Merged) -> Merged:
        clash = Clash(
            change.kind,
            change.namespace,
            change.key,
            self._episode_of(change.kind, theirs),
            merged.fields,
            merged.base,
            as_json(change.kind, mine),
            as_json(change.kind, theirs),
            change.writer,
        )
        if self._policy.decide is None:
            self._keep(clash)
            return merged
        self._tally.merged += 1
        decision = self._policy.decide(self._conflict_of(clash))
        if decision in ("mine", "theirs"):
            return merge(change.kind, bases, mine, theirs, decision)
        return merged._replace(values=values_of(change.kind, decision, mine, theirs))

    def _conflict_of(self, clash: Clash) -> Conflict:
        sides: list[Any] = [
            None if side is None else json.loads(side) for side in (clash.base, clash.mine, clash.theirs)
        ]
        return Conflict(
            id=uuid4(),
            kind=KINDS[clash.kind].name,  # type: ignore[arg-type] # one of them
            object_id=UUID(clash.key),
            episode_id=UUID(clash.episode_id) if clash.episode_id else None,
            fields=clash.fields,
            base=sides[0],
            mine=sides[1],
            theirs=sides[2],
            my_writer=self._policy.writer,
            their_writer=clash.their_writer,
            detected_at=EPOCH + timedelta(microseconds=self._policy.now()),
        )

    def _keep(self, clash: Clash) -> None:
        self._tally.conflicts += 1
        self._tx.run(
            [
                BatchStep(
                    """INSERT INTO sync_conflicts (id, namespace, kind, object_id, episode_id, fields, base, mine,
    theirs, my_writer, their_writer, detected_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                    (
                        *(str(uuid4()), clash.namespace, KINDS[clash.kind].name, clash.key, clash.episode_id),
                        *(json.dumps(clash.fields), clash.base, clash.mine, clash.theirs),
                        *(self._policy.writer, clash.their_writer, self._policy.now()),
                    ),
                )
            ]
        )

    def _keep_vector(self, change: Change, fields: list[str], mine: tuple[Values, bytes], theirs: str | None) -> None:
        owner = mine[0][KINDS[EMBEDDING].place("owner_id")]
        sides = None, _embedding_json(*mine), theirs
        episode_id = self._episode_of(EMBEDDING, mine[0])
        self._keep(Clash(EMBEDDING, change.namespace, owner, episode_id, fields, *sides, change.writer))

    def _keep_deleted(self, change: Change, seq: int, values: Values) -> None:
        """Keep what was changed here of a row that was deleted at the server."""
        if not self._has_pending:
            return
        kind = KINDS[change.kind]
        mine = None
        if change.kind == EPISODE:
            mine = self._changed_episode(seq, values)
        elif self._tx.read("SELECT 1 FROM sync_changes WHERE kind = ? AND seq = ?", change.kind, seq):
            if change.kind == EMBEDDING:
                if values[kind.place("text_digest")] is None:  # a caller's, which cannot be computed again
                    self._keep_vector(change, ["deleted"], (values, vector_of(self._tx, values)), None)
                return
            mine = as_json(change.kind, values)
        if mine is not None:
            episode_id = self._episode_of(change.kind, values)
            facts = (change.kind, change.namespace, change.key, episode_id, ["deleted"], None, mine, None)
            self._keep(Clash(*facts, change.writer))

    def _episode_of(self, kind: int, values: Values) -> str | None:
        """Return the id of the episode that a row is a part of, or begins at; with it, a conflict is erased."""
        if kind in (EPISODE, PATTERN):
            return None
        one = dict(zip(KINDS[kind].columns, values, strict=True))
        if kind in _EPISODE_IDS:
            return str(one[_EPISODE_IDS[kind][0]])
        if one["owner_type"] == "episode":
            return str(one["owner_id"])
        key = one["namespace"], one["owner_id"]
        of_step = self._tx.read("SELECT episode_id FROM steps WHERE namespace = ? AND id = ?", *key)
        return of_step[0][0] if of_step else None

    def _changed_episode(self, seq: int, values: Values) -> str | None:
        """Return an episode with all of its steps as JSON, if it or one of them was changed here."""
        key = (values[0], values[KINDS[EPISODE].place("id")])
        changed = self._tx.read(
            f"""SELECT 1 FROM sync_changes WHERE kind = {EPISODE} AND seq = ?
UNION ALL SELECT 1 FROM steps AS s CROSS JOIN sync_changes AS c ON c.kind = {STEP} AND c.seq = s.seq
WHERE s.namespace = ? AND s.episode_id = ? LIMIT 1""",
            seq,
            *key,
        )
        if not changed:
            return None
        rows = self._tx.read(
            f"SELECT {', '.join(STEP_ROW)} FROM steps WHERE namespace = ? AND episode_id = ? ORDER BY step_number", *key
        )
        steps: list[Step] = decode_steps(rows)
        return as_model(EPISODE, values).model_copy(update={"steps": steps}).model_dump_json()

    def _forget_change(self, number: int, key: tuple[int, str, str]) -> None:
        self._tx.run(
            [
                BatchStep("DELETE FROM sync_changes WHERE number = ?", (number,)),
                BatchStep('DELETE FROM sync_bases WHERE kind = ? AND namespace = ? AND "key" = ?', key),
            ]
        )

    def _keep_base(self, number: int, key: tuple[int, str, str], theirs: Values) -> None:
        kind = KINDS[key[0]]
        columns = json.dumps([theirs[kind.place(name)] for name in BASES[key[0]]])
        document = theirs[kind.place("document")] if "document" in kind.columns else ""
        output = theirs[kind.place("output")] if "output" in kind.columns else None
        self._tx.run(
            [
                BatchStep("UPDATE sync_changes SET sent = NULL WHERE number = ?", (number,)),
                BatchStep('DELETE FROM sync_bases WHERE kind = ? AND namespace = ? AND "key" = ?', key),
                BatchStep("INSERT INTO sync_bases VALUES (?, ?, ?, 0, ?, ?, ?)", (*key, columns, document, output)),
            ]
        )

    # -- kinds that need more --------------------------------------------------------------------------------------

    def _with_counters(self, rows: list[Values]) -> list[Values]:
        """Return patterns with the counters of this file, where it has counted: then the server says what it has."""
        kind = KINDS[PATTERN]
        ids = json.dumps([[row[0], row[kind.place("id")]] for row in rows])
        counted = {tuple(row) for row in self._tx.rows(COUNTED.bind(patterns=ids))}
        if not counted:
            return rows
        self._tx.run([ASK_AGAIN.bind(patterns=json.dumps(sorted(counted)))])
        result = []
        for row in rows:
            key = row[0], row[kind.place("id")]
            stored = key in counted and self._tx.read(
                f"SELECT {', '.join(PATTERN_COUNTERS)} FROM patterns WHERE namespace = ? AND id = ?", *key
            )
            result.append(kind.replaced(row, **dict(zip(PATTERN_COUNTERS, stored[0], strict=True))) if stored else row)
        return result

    def _make_room(self, numbered: Sequence[tuple[str, str, int, str]]) -> str:
        """Move steps away whose number the server has given to another one, and those that get another number.

        Args:
            numbered: Namespace, episode, number and id of steps.

        Returns:
            The numbers of the rows that were moved away, as JSON; empty if there are none.
        """
        given = json.dumps(list(numbered))
        rows = self._tx.read(
            """SELECT s.seq FROM json_each(?) CROSS JOIN steps AS s ON s.namespace = value ->> 0
    AND s.episode_id = value ->> 1 AND s.step_number = value ->> 2 WHERE s.id <> value ->> 3""",
            given,
        )
        if not rows:
            return ""
        moved = self._tx.read(
            """SELECT s.seq FROM json_each(?) CROSS JOIN steps AS s ON s.namespace = value ->> 0 AND s.id = value ->> 3
    WHERE s.step_number <> value ->> 2""",
            given,
        )
        seqs = json.dumps(sorted({row[0] for row in (*rows, *moved)}))
        self._tx.run(
            [
                BatchStep(
                    "UPDATE steps SET step_number = -step_number WHERE seq IN (SELECT value FROM json_each(?))", (seqs,)
                )
            ]
        )
        return seqs

    def _fill_up(self, parked: str) -> None:
        """Move the steps that were moved away, and have no number of the server, behind all others."""
        if parked:
            self._tx.run(
                [
                    BatchStep(
                        """WITH parked AS MATERIALIZED (
    SELECT s.seq, row_number() OVER (PARTITION BY s.namespace, s.episode_id ORDER BY -s.step_number) + (
        SELECT max(o.step_number) FROM steps AS o
        WHERE o.namespace = s.namespace AND o.episode_id = s.episode_id) AS number
    FROM steps AS s WHERE s.seq IN (SELECT value FROM json_each(?)) AND s.step_number < 0)
UPDATE steps SET step_number = parked.number FROM parked WHERE steps.seq = parked.seq""",
                        (parked,),
                    )
                ]
            )

    def _number_steps(self, numbered: Sequence[tuple[str, str, int, str]]) -> None:
        """Give steps the numbers that the server has given them."""
        if not numbered:
            return
        given = json.dumps(list(numbered))
        differing = self._tx.read(
            """SELECT value FROM json_each(?) WHERE EXISTS (SELECT 1 FROM steps AS s WHERE s.namespace = value ->> 0
    AND s.id = value ->> 3 AND s.step_number <> value ->> 2)""",
            given,
        )
        if not differing:
            return
        changed = [tuple(json.loads(row[0])) for row in differing]
        parked = self._make_room(changed)
        self._tx.run(
            [
                BatchStep(
                    """UPDATE steps SET step_number = value ->> 2 FROM json_each(?)
WHERE steps.namespace = value ->> 0 AND steps.id = value ->> 3""",
                    (json.dumps(changed),),
                )
            ]
        )
        self._fill_up(parked)

    def _replace_relationships(self, rows: Sequence[Values]) -> None:
        """Delete relationships that were added here between the same episodes as those of the server, which stand."""
        kind = KINDS[RELATIONSHIP]
        places = [kind.place(name) for name in ("namespace", "from_id", "kind", "to_id")]
        theirs_by_ends = {tuple(row[place] for place in places): row for row in rows}
        ends = json.dumps([[*key, row[kind.place("id")]] for key, row in theirs_by_ends.items()])
        for seq, *columns in self._tx.read(
            f"""SELECT r.seq, {kind.columns_of("r")} FROM json_each(?) CROSS JOIN relationships AS r
    ON r.namespace = value ->> 0 AND r.from_id = value ->> 1 AND r.kind = value ->> 2 AND r.to_id = value ->> 3
WHERE r.id <> value ->> 4""",
            ends,
        ):
            mine = tuple(columns)
            theirs = theirs_by_ends[tuple(mine[place] for place in places)]
            sides = [kind.replaced(side, id="", created_at=0) for side in (mine, theirs)]
            if sides[0] == sides[1]:
                self._tally.merged += 1
            else:  # under the name of the one that stands
                facts = theirs[0], kind.key_of(theirs), self._episode_of(RELATIONSHIP, theirs), ["relationship"]
                both = as_json(RELATIONSHIP, mine), as_json(RELATIONSHIP, theirs)
                self._keep(Clash(RELATIONSHIP, *facts, None, *both, None))
            self._tx.run([BatchStep("DELETE FROM relationships WHERE seq = ?", (seq,))])

    def _apply_embeddings(self, rows: Sequence[Values], page: Page) -> None:
        kind = KINDS[EMBEDDING]
        groups: dict[tuple[str, str], list[tuple[Values, bytes]]] = {}
        for row in rows:
            token, seq = row[kind.place("space")], row[kind.place("vector_seq")]
            vector = page.vectors.get((token, seq))
            if vector is not None:  # else it was replaced since, and comes again
                groups.setdefault((row[0], token), []).append((row, vector))
        for (namespace, token), group in groups.items():
            space, dimension = self._spaces(token)
            local = self._tx.space(namespace, space.model, dimension)
            self._remove_other_dimensions(namespace, local)
            self._tx.run(list(apply_embeddings(local, group)))

    def _remove_other_dimensions(self, namespace: str, space: VectorSpace) -> None:
        """Delete the vectors of a model in another dimension: a namespace has one, and the server's stands."""
        kind = KINDS[EMBEDDING]
        rows = self._tx.read(
            f"""SELECT m.seq, {kind.columns_of("m")} FROM vector_models AS o
CROSS JOIN embeddings AS m ON m.namespace = ? AND m.model = o.name AND m.space = o.token
WHERE o.name = ? AND o.token <> ?""",
            *(namespace, space.model, space.token),
        )
        for seq, *columns in rows:
            self._keep_deleted(Change(0, EMBEDDING, namespace, kind.key_of(columns)), seq, tuple(columns))
            self._tx.run([BatchStep("DELETE FROM embeddings WHERE seq = ?", (seq,))])

    # -- erasure ---------------------------------------------------------------------------------------------------

    def _erase(self, digests: Sequence[bytes]) -> None:
        """Erase what was erased at the server, from the tables, the log and the conflicts."""
        wanted = {one.hex() for one in digests}
        self._tx.run([ADD_TOMBSTONES.bind(digests=json.dumps(sorted(wanted)))])
        self._has_forgotten = True
        rows = self._tx.read(
            """SELECT namespace, id FROM episodes UNION SELECT namespace, id FROM patterns
UNION SELECT namespace, object_id FROM sync_conflicts UNION SELECT namespace, episode_id FROM sync_conflicts
UNION SELECT namespace, mine ->> '$.to_id' FROM sync_conflicts WHERE kind = 'relationship'
UNION SELECT namespace, "key" FROM sync_changes WHERE "key" IS NOT NULL AND kind <> 6"""
        )
        erased = [
            (namespace, row_id)
            for namespace, row_id in rows
            if row_id is not None and not wanted.isdisjoint(tombstone_forms(namespace, row_id))
        ]
        self.erase(erased)

    def erase(self, names: Sequence[tuple[str, str]]) -> None:
        """Erase episodes and patterns by namespace and id, and what is kept of them as conflicts."""
        if names:
            self._tx.run([*delete_named(names), *erase_traces(names)], changed=names)
            self._tally.erased += len(names)


_EPISODE_IDS = {STEP: ("episode_id",), RELATIONSHIP: ("from_id", "to_id"), CHECKPOINT: ("episode_id",)}
"""The columns with the ids of the episodes that a row belongs to."""


def _owners_of(change: Change) -> set[tuple[str, str, str]]:
    """Return namespace, type and id of the rows without which a row is not stored."""
    kind, values = KINDS[change.kind], change.values or ()
    if change.kind in _EPISODE_IDS:
        return {(change.namespace, "episode", values[kind.place(name)]) for name in _EPISODE_IDS[change.kind]}
    return {(change.namespace, values[kind.place("owner_type")], values[kind.place("owner_id")])}


def _episodes_of(kind: int, rows: Sequence[Values]) -> list[tuple[str, str]]:
    """Return namespace and id of the episodes whose words and facets the rows have."""
    if kind not in (EPISODE, STEP):
        return []
    place = KINDS[kind].place("id" if kind == EPISODE else "episode_id")
    return [(row[0], row[place]) for row in rows]


def _as_keys(changes: Sequence[Change]) -> str:
    return json.dumps([one.name for one in changes])


def _embedding_json(values: Values, vector: bytes) -> str:
    one = dict(zip(KINDS[EMBEDDING].columns, values, strict=True))
    model = Embedding(
        owner_type=one["owner_type"],
        owner_id=one["owner_id"],
        model=one["model"],
        vector=unpack_vector(vector) or [0.0],
        created_at=from_micros(one["created_at"]),
        updated_at=from_micros(one["updated_at"]),
    )
    return model.model_dump_json()
