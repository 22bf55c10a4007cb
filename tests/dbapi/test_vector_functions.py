"""The vector functions of SQLite's own engine have libSQL's results, in native code, by numpy and in plain Python."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import apsw
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memory_storage import dbapi
from memory_storage.dbapi import _vector_functions as functions
from memory_storage.dbapi._errors import from_message
from tests.raising import raises

COSINE = "SELECT vector_distance_cos(?, ?)"
L2 = "SELECT vector_distance_l2(?, ?)"
CLOSE = 1e-6


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def doubles(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}d", *values) + b"\x02"


class Engine:
    """Runs a statement that returns one value; an error is returned as its class, as the driver would raise it."""

    def __init__(self, execute: Callable[[str, tuple[Any, ...]], Any], last_owner: object = None) -> None:
        self.execute, self.last_owner = execute, last_owner

    def __call__(self, sql: str, *values: Any) -> Any:
        try:
            return self.execute(sql, values)
        except dbapi.Error as error:
            return type(error)
        except (apsw.Error, ValueError) as error:
            return type(from_message(str(error)))


class Engines(NamedTuple):
    libsql: Engine
    sqlite_vec: Engine
    numpy: Engine
    python: Engine

    @property
    def ours(self) -> tuple[Engine, ...]:
        return self[1:]


def libsql_engine() -> Engine:
    libsql_experimental = pytest.importorskip("libsql_experimental", reason="libSQL's engine has no wheel here")
    connection = libsql_experimental.connect(":memory:", isolation_level=None)
    statement = connection.execute("SELECT 1")  # dropped last: the connection would close its handle twice
    statement.fetchall()
    return Engine(lambda sql, values: connection.execute(sql, values).fetchall()[0][0], statement)


def sqlite_connection() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    functions.add_vector_functions(connection)
    return connection


def with_sqlite_vec(connection: apsw.Connection) -> Engine:
    """As the driver does: what sqlite-vec refuses is executed again by Python."""

    def execute(sql: str, values: tuple[Any, ...]) -> Any:
        try:
            return connection.execute(functions.prepare(connection, sql), values).get
        except apsw.SQLError as error:
            if not functions.is_native_error(str(error)):
                raise
            return connection.execute(sql, values).get

    return Engine(execute)


@pytest.fixture(scope="module")
def engines() -> Engines:
    native, by_numpy, by_python = (sqlite_connection() for _ in range(3))
    by_numpy.create_scalar_function("vector_distance_cos", functions.cosine_by_numpy(), 2)
    by_python.create_scalar_function("vector_distance_cos", functions.cosine_by_python(), 2)
    return Engines(
        libsql_engine(),
        with_sqlite_vec(native),
        Engine(lambda sql, values: by_numpy.execute(sql, values).get),
        Engine(lambda sql, values: by_python.execute(sql, values).get),
    )


@pytest.fixture
def connection() -> Iterator[apsw.Connection]:
    with closing(sqlite_connection()) as connection:
        yield connection


@st.composite
def pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two vectors: unrelated, near to each other, opposite, or with a bias, and neither normalized nor of one scale."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    dimension = draw(st.integers(1, 512))
    one, other = random.normal(size=(2, dimension))
    one += draw(st.sampled_from([0, 0, 0, 3]))
    other += one * draw(st.sampled_from([0, 0, 1, -1, 100, -100]))
    scales = st.sampled_from([1.0, 0.001, 3.7, 1e-4, 1e6, 1e-6])
    return tuple((vector * draw(scales)).astype("<f4").tobytes() for vector in (one, other))


coordinates = st.just(0.0) | st.floats(2**-20, 2**20, width=32) | st.floats(-(2**20), -(2**-20), width=32)


def exact_cosine(one: bytes, other: bytes) -> float:
    a, b = (np.frombuffer(vector, "<f4").astype(float) for vector in (one, other))
    return 1 - math.fsum(a * b) / math.sqrt(math.fsum(a * a) * math.fsum(b * b))


@given(pairs())
def test_cosine_distances_are_those_of_libsql(engines, vectors):
    expected, exact = engines.libsql(COSINE, *vectors), exact_cosine(*vectors)
    own_error = abs(expected - exact)  # libSQL adds up 32-bit floats: 1.3e-6 for 512 random dimensions
    for engine in engines.ours:
        distance = engine(COSINE, *vectors)
        assert abs(distance - expected) <= CLOSE or abs(distance - exact) <= own_error


@given(st.integers(1, 8).flatmap(lambda size: st.tuples(*[st.lists(coordinates, min_size=size, max_size=size)] * 2)))
def test_distances_of_few_coordinates_are_those_of_libsql(engines, lists):
    # Adding up a few 32-bit floats loses so little that the results agree, whatever the coordinates are.
    vectors = [floats(*coordinates) for coordinates in lists]
    for sql in (COSINE, L2):
        expected = engines.libsql(sql, *vectors)
        for engine in engines.ours:
            distance = engine(sql, *vectors)
            assert distance == (None if expected is None else pytest.approx(expected, rel=CLOSE, abs=CLOSE))


@given(pairs())
def test_euclidean_distances_are_those_of_libsql(engines, vectors):
    expected = engines.libsql(L2, *vectors)
    for engine in engines.ours:
        # libSQL rounds after each of the 512 additions.
        assert engine(L2, *vectors) == pytest.approx(expected, rel=3e-6, abs=1e-18)


UNUSUAL = {
    "zero": (floats(0, 0), floats(1, 2)),
    "two of zero": (floats(0, 0), floats(0, 0)),
    "a query of zero": (floats(1, 2), floats(0, 0)),
    "the same": (floats(0.1, 0.2), floats(0.1, 0.2)),
    "opposite": (floats(1, 2), floats(-1, -2)),
    "NULL": (None, floats(1, 2)),
    "a query of NULL": (floats(1, 2), None),
    "two of NULL": (None, None),
    "integers": (1, 2),
    "a float": (floats(1), 1.5),
    "other dimensions": (floats(1, 2), floats(1, 2, 3)),
    "empty": (b"", b""),
    "one empty": (b"", floats(1)),
    "3 bytes": (b"abc", b"abc"),
    "5 bytes": (floats(1) + b"\0", floats(1)),
    "a type byte": (floats(1, 2) + b"\x01", floats(2, 1)),
    "64-bit": (doubles(1, 2), doubles(2, 1)),
    "64-bit, large": (doubles(1e50, 2e50), doubles(2e50, 1e50)),
    "64-bit and 32-bit": (doubles(1, 2), floats(2, 1)),
    "64-bit of wrong length": (floats(1) + b"\x02", floats(1)),
    "a string": ("[1,2,3]", floats(3, 2, 1)),
    "two strings": (" [ 1 , -2.5e1 ] ", "[2,1]"),
    "an empty string": ("", floats(1)),
    "strings of no numbers": ("[]", "[]"),
    "a word": ("[1,a]", floats(1, 2)),
    "no bracket": ("1,2", floats(1, 2)),
    "a nested string": ("[[1,2]]", floats(1, 2)),
    "a number too large": ("[1e39]", "[1]"),
    "infinity": (floats(math.inf, 1), floats(1, 1)),
    "infinity and zero": (floats(math.inf, 1), floats(0, 1)),
    "infinity twice": (floats(math.inf, 1), floats(math.inf, 1)),
    "NaN": (floats(1, 1), floats(math.nan, 1)),
    "denormal": (floats(1e-42, 2e-42), floats(1e-42, 3e-42)),
    "squares underflow": (floats(1e-25, 2e-25), floats(3e-25, 1e-25)),
    "squares overflow": (floats(1e30, 2e30), floats(3e30, 1e30)),
}


@pytest.mark.parametrize("vectors", UNUSUAL.values(), ids=UNUSUAL)
@pytest.mark.parametrize("sql", [COSINE, L2], ids=["cosine", "l2"])
def test_unusual_arguments_are_treated_as_by_libsql(engines, sql, vectors):
    expected = engines.libsql(sql, *vectors)
    for engine in engines.ours:
        result = engine(sql, *vectors)
        assert result == (pytest.approx(expected, rel=1e-6, abs=1e-7) if isinstance(expected, float) else expected)


def test_where_libsql_overflows_the_distance_is_true(engines):
    # Lengths that the package stores, but libSQL multiplies their squares.
    for scale in (1e14, 1e-14):
        vectors = floats(scale, 2 * scale), floats(2 * scale, scale)
        assert engines.libsql(COSINE, *vectors) != pytest.approx(0.2, abs=0.1)
        assert [engine(COSINE, *vectors) for engine in engines.ours] == [pytest.approx(0.2)] * 3


@pytest.mark.parametrize("kind", [3, 4, 5, 6])
def test_elements_of_fewer_bits_are_refused(engines, kind):
    vector = b"\0" * 16 + bytes([kind])
    assert {engine(COSINE, vector, vector) for engine in engines.ours} == {dbapi.NotSupportedError}
    connection = dbapi.connect(":memory:", local_engine="sqlite")
    with raises(dbapi.NotSupportedError, code="VECTOR_TYPE", match="local_engine='libsql'"):
        connection.execute(COSINE, (vector, vector))
    connection.close()


FORMATS = ["SELECT vector_extract(?)", "SELECT vector(?)", "SELECT vector32(?)", "SELECT vector64(?)"]


@pytest.mark.parametrize("sql", FORMATS)
@given(vector=st.lists(st.floats(width=32), max_size=20))
@example([100000.5, 100001.5, 999999.5, 1e6, 1e-5, 1e-45, 3.4e38, -0.0, math.inf, -math.inf, math.nan])
def test_32_bit_vectors_are_converted_as_by_libsql(engines, sql, vector):
    assert engines.python(sql, floats(*vector)) == engines.libsql(sql, floats(*vector))


@pytest.mark.parametrize("sql", FORMATS)
@given(vector=st.lists(st.floats(), max_size=20))
@example([100000.5, 1e300, -1e-300, 5e-324, 1 / 3])
def test_64_bit_vectors_are_converted_as_by_libsql(engines, sql, vector):
    assert engines.python(sql, doubles(*vector)) == engines.libsql(sql, doubles(*vector))


@pytest.mark.parametrize("sql", FORMATS)
@given(text=st.text("0123456789.eE+-,[] \t\n\v_xna;\0", max_size=12).map(lambda text: f"[{text}]"))
@example("[1,2]")
@example("[1 2 , 3 ] ")
@example("[1,]")
@example("[5.,.5,+5,-5,1e2,1E-2]")
@example("[1e]")
@example("[.]")
@example("[nan]")
@example("[0x10]")
@example("[1_0]")
@example("[\uff11]")
@example("[\u00a01]")
@example("[1]]")
@example("x[1]")
@example("")
def test_strings_are_parsed_as_by_libsql(engines, sql, text):
    assert engines.python(sql, text) == engines.libsql(sql, text)


@pytest.mark.parametrize("sql", FORMATS)
@pytest.mark.parametrize("value", [None, 1, 1.5, b"abc", b"", floats(1) + b"\x01", floats(1) + b"\x02"])
def test_other_values_are_converted_or_refused_as_by_libsql(engines, sql, value):
    assert engines.python(sql, value) == engines.libsql(sql, value)


@pytest.mark.parametrize("sql", FORMATS)
@pytest.mark.parametrize("vector", [bytes(4 * 65_537), f"[{'1,' * 65_536}1]"], ids=["blob", "string"])
def test_more_elements_than_libsql_takes_are_refused(engines, sql, vector):
    assert engines.python(sql, vector) is dbapi.DataError


def test_a_scan_takes_turns_between_two_queries(engines):
    sql = """SELECT json_group_array(round(vector_distance_cos(vector, iif(n % 2, ?, ?)), 4))
        FROM (SELECT 1 AS n, vector('[1,0]') AS vector UNION ALL SELECT 2, vector('[1,0]')
            UNION ALL SELECT 3, vector('[0,1]') UNION ALL SELECT 4, vector('[1]'))"""
    queries = floats(1, 0), floats(2)
    assert {engine(sql, *queries) for engine in engines.ours} == {dbapi.DataError}
    few = sql.replace("SELECT 2, vector('[1,0]')", "SELECT 2, vector('[3]')")
    assert {engine(few, *queries) for engine in engines} == {"[0.0,0.0,1.0,0.0]"}


def test_an_error_of_libsqls_wording_is_raised_as_the_drivers(connection):
    with raises(dbapi.DataError, match="vectors must have the same length: 1 != 2", code="SQLITE_ERROR"):
        connection.execute(COSINE, ("[1]", "[1,2]"))


def test_sqlite_vecs_own_refusals_are_recognised(connection):
    for vectors in [("[1]", "[1,2]"), (b"abc", floats(1)), (floats(1), None)]:
        with raises(apsw.SQLError) as caught:
            connection.execute(functions.prepare(connection, COSINE), vectors)
        assert functions.is_native_error(str(caught.value))
        assert type(from_message(str(caught.value))) is dbapi.DataError
    assert not functions.is_native_error("no such table: t")


@pytest.mark.parametrize(
    ("sql", "translated"),
    [
        ("SELECT vector_distance_cos(a, b)", "SELECT vec_distance_cosine(a, b)"),
        ("select Vector_Distance_COS (a, b)", "select vec_distance_cosine (a, b)"),
        ("SELECT vector_distance_l2 /* ( */ (a, b)", "SELECT vec_distance_l2 /* ( */ (a, b)"),
        (
            "WITH q AS (SELECT vector_distance_cos(a, b)) SELECT vector_distance_cos(a, b) + 1 FROM q",
            "WITH q AS (SELECT vec_distance_cosine(a, b)) SELECT vec_distance_cosine(a, b) + 1 FROM q",
        ),
        ("UPDATE t SET a = vector_distance_cos(a, b)", "UPDATE t SET a = vec_distance_cosine(a, b)"),
        ("EXPLAIN SELECT vector_distance_cos(a, b)", "EXPLAIN SELECT vec_distance_cosine(a, b)"),
    ],
)
def test_calls_of_distances_are_translated(sql, translated):
    assert functions.translate(sql) == translated


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'vector_distance_cos(a, b)'",
        "SELECT 'it''s vector_distance_cos(a, b)'",
        'SELECT "vector_distance_cos"(a, b)',
        "SELECT [vector_distance_cos](a, b), `vector_distance_cos`(a, b)",
        "SELECT 1 -- vector_distance_cos(a, b)",
        "SELECT 1 /* vector_distance_cos(a, b) */",
        "SELECT vector_distance_cos FROM t",
        "SELECT my_vector_distance_cos(a, b), vector_distance_cos2(a, b)",
        "INSERT INTO vector_distance_cos(a, b) VALUES (1, 2)",
        "WITH vector_distance_cos(a) AS (SELECT 1) SELECT a FROM vector_distance_cos",
        "CREATE TABLE vector_distance_cos(a, b)",
        "CREATE VIEW v AS SELECT vector_distance_cos(a, b) FROM t",
        "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT vector_distance_cos(new.a, new.b); END",
        "SELECT vector32(a), vector_extract(a)",
        "SELECT 1",
    ],
)
def test_everything_else_stays_as_it_is(sql):
    assert functions.translate(sql) == sql


def test_nothing_is_loaded_before_a_distance_is_called(connection):
    functions.prepare(connection, "SELECT vector32('[1]')")
    with raises(apsw.SQLError, match="no such function: vec_version"):
        connection.execute("SELECT vec_version()")
    functions.prepare(connection, COSINE)
    assert connection.execute("SELECT vec_version()").get.startswith("v")


def test_extensions_cannot_be_loaded_afterwards(connection):
    functions.prepare(connection, COSINE)
    path = functions._sqlite_vec_path()
    with raises(apsw.SQLError, match="not authorized"):
        connection.execute("SELECT load_extension(?)", (path,))
    with raises(apsw.ExtensionLoadingError, match="not authorized"):
        connection.load_extension(path)


def test_it_is_loaded_in_a_transaction_and_while_rows_are_read(connection):
    connection.execute("CREATE TABLE t (vector)")
    connection.execute("BEGIN")
    connection.execute("INSERT INTO t VALUES (vector('[1,2]')), (vector('[2,1]'))")
    rows = connection.execute("SELECT vector FROM t")
    next(rows)
    sql = "SELECT round(vector_distance_cos(vector, '[1,2]'), 4) FROM t"
    assert connection.execute(functions.prepare(connection, sql)).fetchall() == [(0.0,), (0.2,)]
    assert len(rows.fetchall()) == 1
    connection.execute("COMMIT")


@pytest.mark.parametrize("path", ["", "/nowhere/vec0"], ids=["not installed", "not loadable"])
def test_without_sqlite_vec_python_computes_the_distances(connection, monkeypatch, path):
    monkeypatch.setattr(functions, "_sqlite_vec_path", lambda: path)
    assert functions.prepare(connection, COSINE) is COSINE
    assert connection.execute(COSINE, (floats(1, 2), floats(2, 1))).get == pytest.approx(0.2)


def test_it_needs_no_package_beside_apsw():
    code = """
import sys
for name in ("numpy", "sqlite_vec", "sqlite3"):
    sys.modules[name] = None
import apsw
from memory_storage.dbapi import _vector_functions as functions
functions.find_spec = lambda name: None
connection = apsw.Connection(":memory:")
functions.add_vector_functions(connection)
sql = "SELECT round(vector_distance_cos('[1,2]', vector('[2,1]')), 4), vector_distance_cos(x'0000803f', x'0000803f')"
print(connection.execute(functions.prepare(connection, sql)).get)
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout == "(0.2, 0.0)\n"


class TestADiskannIndex:
    CREATE = "CREATE INDEX t_ann ON t (libsql_vector_idx(vector, 'metric=cosine', 'compress_neighbors=float8'))"

    @pytest.fixture
    def connection(self, connection):
        connection.execute("CREATE TABLE t (seq INTEGER PRIMARY KEY, vector F32_BLOB(2), name)")
        return connection

    def test_is_created_on_an_empty_table_and_dropped(self, connection):
        connection.execute(self.CREATE)
        connection.execute("DROP INDEX t_ann")
        connection.execute("INSERT INTO t (vector) VALUES (vector('[1,2]'))")
        assert connection.execute("SELECT count(*) FROM t").get == 1

    def test_lets_rows_be_read_and_other_columns_be_changed(self, connection):
        connection.execute("INSERT INTO t (vector) VALUES (vector('[1,2]'))")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "INSERT INTO sqlite_master SELECT 'index', 't_ann', 't', rootpage, ? FROM sqlite_master", (self.CREATE,)
        )
        assert connection.execute("SELECT vector_extract(vector) FROM t").get == "[1,2]"
        connection.execute("UPDATE t SET name = 'changed'")
        assert connection.execute("SELECT name FROM t").get == "changed"

    @pytest.mark.parametrize("trusted", ["ON", "OFF"])
    def test_refuses_a_row_and_stores_nothing(self, connection, trusted):
        connection.execute(self.CREATE)
        connection.execute(f"PRAGMA trusted_schema = {trusted}")
        with raises(dbapi.NotSupportedError, match="nothing was stored", code="DISKANN_INDEX"):
            connection.execute("INSERT INTO t (vector) VALUES (vector('[1,2]'))")
        assert connection.execute("SELECT count(*) FROM t").get == 0

    def test_is_not_created_on_a_table_with_rows(self, connection):
        connection.execute("INSERT INTO t (vector) VALUES (vector('[1,2]'))")
        with raises(dbapi.NotSupportedError, code="DISKANN_INDEX"):
            connection.execute(self.CREATE)
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'index'").get == 0
