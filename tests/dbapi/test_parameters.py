"""Values are read back as they were bound, or refused."""

import math
from enum import IntEnum

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memory_storage import dbapi

INT64 = st.integers(-(2**63), 2**63 - 1)
EDGES = [0, 1, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)]
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VALUES = st.one_of(st.none(), INT64, st.floats(allow_nan=False), TEXT, st.binary())


@given(value=INT64)
@example(value=-(2**63))
@example(value=2**53 + 1)
def test_integers_are_exact_in_expressions_and_in_columns(cursor, value):
    assert cursor.execute("SELECT ?, ? = ?", (value, value, value)).fetchone() == (value, 1)
    cursor.execute("DELETE FROM t")
    cursor.execute("INSERT INTO t (v) VALUES (?)", (value,))
    assert cursor.execute("SELECT v, typeof(v) FROM t WHERE v = ?", (value,)).fetchall() == [(value, "integer")]


@given(values=st.lists(INT64, max_size=5))
def test_integers_are_exact_in_executemany(cursor, values):
    cursor.execute("DELETE FROM t")
    cursor.executemany("INSERT INTO t (v) VALUES (?)", [(value,) for value in values])
    assert cursor.execute("SELECT v FROM t ORDER BY id").fetchall() == [(value,) for value in values]


@given(one=INT64, two=VALUES)
def test_numbered_placeholders_take_their_parameter(cursor, one, two):
    assert cursor.execute("SELECT ?2, ?1, ?2, ?", (one, two, one)).fetchone() == (two, one, two, one)


@pytest.mark.parametrize("value", EDGES)
def test_arithmetic_with_integers_beyond_32_bits_stays_integer(cursor, value):
    assert cursor.execute("SELECT ? - ?, -?", (value, value, value // 2)).fetchone() == (0, -(value // 2))
    assert cursor.execute("SELECT 1-?", (-5_000_000_000,)).fetchone() == (5_000_000_001,)


@given(row=st.tuples(VALUES, VALUES, VALUES))
def test_every_value_is_read_back_with_its_type(cursor, row):
    back = cursor.execute("SELECT ?, ?, ?", row).fetchone()
    assert back == row
    assert [type(value) for value in back] == [type(value) for value in row]


@pytest.mark.parametrize("value", [bytearray(b"a\0\xff"), memoryview(b"a\0\xff"), b"a\0\xff", dbapi.Binary(b"a\0\xff")])
def test_what_holds_bytes_is_bound_as_bytes(cursor, value):
    assert cursor.execute("SELECT ?, typeof(?)", (value, value)).fetchone() == (b"a\0\xff", "blob")


def test_subclasses_are_bound_as_what_they_are(cursor):
    class Colour(IntEnum):
        RED = 2**40

    class Name(str):
        def __str__(self):
            return "another"

    row = cursor.execute("SELECT ?, ?, ?", (Colour.RED, Name("name"), True)).fetchone()
    assert row == (2**40, "name", 1)
    assert [type(value) for value in row] == [int, str, int]


def test_infinity_and_negative_zero_are_kept(cursor):
    row = cursor.execute("SELECT ?, ?, ?", (math.inf, -math.inf, 1e308)).fetchone()
    assert row == (math.inf, -math.inf, 1e308)


def test_a_list_of_parameters_will_do(cursor):
    assert cursor.execute("SELECT ?, ?", [1, "é"]).fetchone() == (1, "é")
