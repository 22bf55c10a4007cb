"""Checks of vectors: their counters, their index, and the engine's metadata of it."""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection, exc

from memory_storage.doctor.findings import Finding, about_rows, has_table, seqs_of
from memory_storage.doctor.quarantine import quarantine_rows
from memory_storage.schema.vector_tables import PRESETS, VectorSpace, digest

_META = "libsql_vector_meta_shadow"
_PAGE = 64  # of 64 KB at most
_MODELS = "SELECT token, name, dimension, preset FROM vector_models ORDER BY name, dimension"


def stale_metadata(connection: Connection) -> list[Finding]:
    """Find the engine's metadata of indexes that do not exist, and duplicates: VACUUM leaves them."""
    if not has_table(connection, _META):
        return []
    names = seqs_of(connection, f"SELECT name FROM {_META} NOT INDEXED")
    present = set(seqs_of(connection, "SELECT name FROM sqlite_master WHERE type = 'index'"))
    complaints = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check") if _META in str(row[0])]
    wrong = len([name for name in names if name not in present]) + len(names) - len(set(names)) + len(complaints)
    if not wrong:
        return []
    problem = "the engine's metadata of vector indexes is stale: a new index would stay empty"
    remedy = "delete them, and rebuild the vector indexes"
    return [Finding("vectors.metadata", _META, wrong, problem, remedy, repair=_start_over)]


def _start_over(connection: Connection) -> None:
    models = _spaces(connection)
    for space, _ in models:
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS {space.index}")
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {space.index}_shadow")
    connection.exec_driver_sql(f"DROP TABLE {_META}")
    for space, preset in models:
        connection.exec_driver_sql(f"UPDATE {space.table} SET indexed = 0 WHERE indexed = 1")
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


def wrong_index(connection: Connection) -> list[Finding]:
    """Find vector indexes that are missing, or differ from their table."""
    wrong = [(space, preset) for space, preset in _spaces(connection) if not _is_whole(connection, space)]
    if not wrong:
        return []
    names = ", ".join(space.index for space, _ in wrong)
    problem = f"vector indexes that differ from their table ({names}): searches do not use them"
    repair = partial(_empty, spaces=wrong)
    return [Finding("vectors.index", "vector_models", len(wrong), problem, "rebuild them", repair=repair)]


def _is_whole(connection: Connection, space: VectorSpace) -> bool:
    if not has_table(connection, space.index):
        return False
    keys = f"SELECT seq FROM {space.table} NOT INDEXED WHERE indexed = 1"
    nodes = f"SELECT index_key FROM {space.index}_shadow"
    try:
        return not seqs_of(
            connection, f"SELECT * FROM ({keys} EXCEPT {nodes}) UNION ALL SELECT * FROM ({nodes} EXCEPT {keys})"
        )
    except exc.OperationalError as error:
        if "no such table" not in str(error.orig):
            raise
        return False


def _empty(connection: Connection, *, spaces: list[tuple[VectorSpace, str]]) -> None:
    for space, preset in spaces:
        for sql in space.empty_index(PRESETS[preset]):
            connection.exec_driver_sql(sql)
        connection.exec_driver_sql("UPDATE vector_models SET removed = 0 WHERE token = ?", (space.token,))


def _spaces(connection: Connection) -> list[tuple[VectorSpace, str]]:
    """Return the models whose table exists, with their presets."""
    models = connection.exec_driver_sql(_MODELS).all() if has_table(connection, "vector_models") else []
    spaces = [(VectorSpace.of(*key), preset if preset in PRESETS else "balanced") for *key, preset in models]
    return [(space, preset) for space, preset in spaces if has_table(connection, space.table)]
