"""Checks of vectors: their counters, their DiskANN index, and the engine's metadata of it.

A database needs DiskANN indexes only if it is opened with `vector_index="diskann"`. Otherwise a missing one is no
damage, and a damaged one is dropped: SQLite could not create it again.
"""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection, exc

from memory_storage.doctor.findings import Finding, about_rows, has_table, seqs_of
from memory_storage.doctor.quarantine import quarantine_rows
from memory_storage.schema.vector_tables import (
    DISKANN_INDEXES,
    METADATA_TABLE,
    PRESETS,
    VectorSpace,
    digest,
    drop_diskann,
)

_PAGE = 64  # of 64 KB at most
_MODELS = "SELECT token, name, dimension, preset FROM vector_models ORDER BY name, dimension"


def stale_metadata(connection: Connection, *, uses_diskann: bool) -> list[Finding]:
    """Find the engine's metadata of indexes that do not exist, and duplicates: VACUUM leaves them."""
    if not has_table(connection, METADATA_TABLE):
        return []
    names = seqs_of(connection, f"SELECT name FROM {METADATA_TABLE} NOT INDEXED")
    present = set(seqs_of(connection, "SELECT name FROM sqlite_master WHERE type = 'index'"))
    problems = connection.exec_driver_sql("PRAGMA integrity_check").scalars()
    complaints = [problem for problem in problems if METADATA_TABLE in str(problem)]
    wrong = len([name for name in names if name not in present]) + len(names) - len(set(names)) + len(complaints)
    if not wrong:
        return []
    problem = "the engine's metadata of vector indexes is stale: a new index would stay empty"
    remedy = f"delete them, and {_remedy(uses_diskann)}"
    repair = partial(_renew, spaces=_spaces(connection), uses_diskann=uses_diskann, kept=[])
    return [Finding("vectors.metadata", METADATA_TABLE, wrong, problem, remedy, repair=repair)]


def _remedy(uses_diskann: bool) -> str:
    return "rebuild the vector indexes" if uses_diskann else "drop the DiskANN indexes, which vector_index does not use"


def _renew(
    connection: Connection, *, spaces: list[tuple[VectorSpace, str]], uses_diskann: bool, kept: list[str]
) -> None:
    """Drop the indexes of these spaces; create them again, empty, if they are used."""
    for sql in drop_diskann([space for space, _ in spaces], kept):
        connection.exec_driver_sql(sql)
    for space, preset in spaces:
        connection.exec_driver_sql(space.mark_pending())
        connection.exec_driver_sql("UPDATE vector_models SET removed = 0 WHERE token = ?", (space.token,))
        if uses_diskann:
            connection.exec_driver_sql(space.create_index(PRESETS[preset]))


def orphaned_vectors(connection: Connection) -> list[Finding]:
    """Find vectors without an embedding, and vectors that differ from their digest."""
    found: list[Finding] = []
    for space, _ in _spaces(connection):
        sql = f"""SELECT seq FROM {space.table} AS v WHERE NOT EXISTS (
            SELECT 1 FROM embeddings WHERE model = ? AND vector_seq = v.seq AND space = ?) ORDER BY seq"""
        seqs = seqs_of(connection, sql, space.model, space.token)
        repair = partial(quarantine_rows, table=space.table, seqs=seqs, reason="no embedding refers to it")
        remedy = f"move them to quarantined_{space.table}"
        found += about_rows("orphans.vectors", space.table, seqs, "vectors without an embedding", remedy, repair)
        wrong = _other_than_their_digest(connection, space)
        repair = partial(_recompute_digests, table=space.table, seqs=wrong)
        problem = "vectors that differ from their digest: another program has changed them"
        found += about_rows("vectors.digest", space.table, wrong, problem, "recompute the digest", repair)
    return found


def _other_than_their_digest(connection: Connection, space: VectorSpace) -> list[int]:
    wrong, last = [], -(2**63)
    page = f"SELECT seq, digest, vector FROM {space.table} WHERE seq > ? ORDER BY seq LIMIT {_PAGE}"
    while rows := connection.exec_driver_sql(page, (last,)).all():
        last = rows[-1][0]
        wrong += [seq for seq, sum_, vector in rows if digest(vector) != sum_]
    return wrong


def _recompute_digests(connection: Connection, *, table: str, seqs: list[int]) -> None:
    for seq in seqs:
        vector = connection.exec_driver_sql(f"SELECT vector FROM {table} WHERE seq = ?", (seq,)).scalar_one()
        connection.exec_driver_sql(f"UPDATE {table} SET digest = ? WHERE seq = ?", (digest(vector), seq))


def wrong_counters(connection: Connection) -> list[Finding]:
    """Find models whose counters differ from the numbers of their vectors."""
    wrong = [space for space, _ in _spaces(connection) if _counted(connection, space) != _noted(connection, space)]
    if not wrong:
        return []
    problem = "models whose counters differ from the numbers of their vectors"
    repair = partial(_count, spaces=wrong)
    return [Finding("counters", "vector_models", len(wrong), problem, "recount", repair=repair)]


def _counted(connection: Connection, space: VectorSpace) -> tuple[int, int]:
    counts = f"SELECT count(*), coalesce(sum(indexed), 0) FROM {space.table} NOT INDEXED"
    vectors, indexed = connection.exec_driver_sql(counts).one()
    return vectors, indexed


def _noted(connection: Connection, space: VectorSpace) -> tuple[int, int]:
    noted = "SELECT vectors, indexed FROM vector_models WHERE token = ?"
    vectors, indexed = connection.exec_driver_sql(noted, (space.token,)).one()
    return vectors, indexed


def _count(connection: Connection, *, spaces: list[VectorSpace]) -> None:
    for space in spaces:
        counts = "UPDATE vector_models SET vectors = ?, indexed = ?, removed = max(removed, 0) WHERE token = ?"
        connection.exec_driver_sql(counts, (*_counted(connection, space), space.token))


def wrong_index(connection: Connection, *, uses_diskann: bool) -> list[Finding]:
    """Find DiskANN indexes that differ from their table, or are missing although they are used."""
    wrong = [pair for pair in _spaces(connection) if not _is_whole(connection, pair[0], uses_diskann=uses_diskann)]
    if not wrong:
        return []
    names = ", ".join(space.index for space, _ in wrong)
    problem = f"vector indexes that differ from their table ({names}): searches do not use them"
    repair = partial(_empty, spaces=wrong, uses_diskann=uses_diskann)
    return [Finding("vectors.index", "vector_models", len(wrong), problem, _remedy(uses_diskann), repair=repair)]


def _is_whole(connection: Connection, space: VectorSpace, *, uses_diskann: bool) -> bool:
    keys = f"SELECT seq FROM {space.table} NOT INDEXED WHERE indexed = 1"
    if not has_table(connection, space.index):
        return not uses_diskann and not seqs_of(connection, f"{keys} LIMIT 1")
    nodes = f"SELECT index_key FROM {space.index}_shadow"
    try:
        return not seqs_of(
            connection, f"SELECT * FROM ({keys} EXCEPT {nodes}) UNION ALL SELECT * FROM ({nodes} EXCEPT {keys})"
        )
    except exc.OperationalError as error:
        if "no such table" not in str(error.orig):
            raise
        return False


def _empty(connection: Connection, *, spaces: list[tuple[VectorSpace, str]], uses_diskann: bool) -> None:
    kept = {str(name) for name in seqs_of(connection, DISKANN_INDEXES)} - {space.index for space, _ in spaces}
    _renew(connection, spaces=spaces, uses_diskann=uses_diskann, kept=sorted(kept))


def _spaces(connection: Connection) -> list[tuple[VectorSpace, str]]:
    """Return the models whose table exists, with their presets."""
    models = connection.exec_driver_sql(_MODELS).all() if has_table(connection, "vector_models") else []
    spaces = [(VectorSpace.of(*key), preset if preset in PRESETS else "balanced") for *key, preset in models]
    return [(space, preset) for space, preset in spaces if has_table(connection, space.table)]
