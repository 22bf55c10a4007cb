"""The properties that the driver derives from a statement before it runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_storage import dbapi
from memory_storage.dbapi._sql import Kind, parse, split_script

TRIGGER = """CREATE TEMP TRIGGER u AFTER INSERT ON t WHEN new.v IS NULL BEGIN
    UPDATE t SET v = CASE WHEN new.id = 1 THEN 'one; END;' ELSE 'END' END WHERE id = new.id;
    -- a remark; with a semicolon
    SELECT 1;
END"""

# Texts in which ; and ? mean nothing.
quoted = st.one_of(
    st.text(st.characters(exclude_characters="\0'", exclude_categories=["Cs"])).map(lambda s: f"'{s}'"),
    st.sampled_from(["'it''s; ?'", '"a;?"', "`a;?`", "[a;?]", "/* ; ? */", "/* ' */", "-- ; ? '\n", "x'3b3f'", "''"]),
)


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SELECT 1", Kind.READ),
        ("  -- a remark\n/* another */ select 1", Kind.READ),
        ("VALUES (1)", Kind.READ),
        ("EXPLAIN QUERY PLAN DELETE FROM t", Kind.READ),
        ("WITH a AS (DELETE) SELECT * FROM a", Kind.READ),
        ("WITH RECURSIVE a(n) AS (VALUES (1) UNION SELECT n FROM a) INSERT INTO t SELECT n FROM a", Kind.WRITE),
        ("WITH a AS (SELECT 1), éselect AS (SELECT 2) UPDATE t SET v = 1", Kind.WRITE),
        ('WITH a AS (SELECT ")") DELETE FROM t', Kind.WRITE),
        ("REPLACE INTO t VALUES (1)", Kind.WRITE),
        ("CREATE TABLE t (x)", Kind.SCHEMA),
        (TRIGGER, Kind.SCHEMA),
        ("REINDEX", Kind.SCHEMA),
        ("SAVEPOINT s", Kind.SAVEPOINT),
        ("RELEASE s", Kind.CONTROL),
        ("BEGIN", Kind.CONTROL),
        ("PRAGMA user_version", Kind.OUTSIDE),
        ("WITH nonsense", Kind.SCHEMA),
    ],
)
def test_the_kind_of_a_statement(sql, kind):
    assert parse(sql).kind is kind


@pytest.mark.parametrize(
    ("sql", "order"),
    [
        ("SELECT ?, ?", (0, 1)),
        ("SELECT ?2, ?1, ?", (1, 0, 2)),
        ("SELECT '?', \"?\", `?`, [?], /* ? */ ? -- ?", (0,)),
        ("SELECT a->>'$.x', x'00', 1e-5, t.a FROM t", ()),
        ("SELECT 'unterminated ?", (0,)),
    ],
)
def test_placeholders_are_found_where_they_are(sql, order):
    assert parse(sql).order == order


@pytest.mark.parametrize("name", [":name", "@name", "$name", ":1", "#x"])
def test_named_placeholders_are_refused(name):
    with pytest.raises(dbapi.ProgrammingError, match="qmark"):
        parse(f"SELECT {name}")


@pytest.mark.parametrize("sql", ["SELECT 1;", "SELECT 1 ; ;\n-- the end", TRIGGER + ";", "SELECT ';'"])
def test_a_statement_may_end_with_semicolons(sql):
    parse(sql)


@pytest.mark.parametrize("sql", ["SELECT 1; SELECT 2", ";SELECT 1", TRIGGER + "; SELECT 1"])
def test_a_second_statement_is_refused(sql):
    with pytest.raises(dbapi.ProgrammingError, match="one statement"):
        parse(sql)


def test_a_trigger_runs_as_one_statement(cursor):
    cursor.execute(TRIGGER)
    cursor.executemany("INSERT INTO t (v) VALUES (?)", [(None,), (None,), ("x",)])
    assert cursor.execute("SELECT v FROM t").fetchall() == [("one; END;",), ("END",), ("x",)]


@given(parts=st.lists(quoted, max_size=6))
def test_quoted_text_is_no_placeholder_and_no_statement(parts):
    statement = parse("SELECT ? " + " , ".join(parts) + "\n, ?")
    assert statement.parameter_count == 2
    assert "?".join(statement.pieces) == statement.sql


@given(parts=st.lists(st.lists(quoted, min_size=1, max_size=3), min_size=1, max_size=4))
def test_a_script_is_cut_between_its_statements(parts):
    statements = ["SELECT " + " , ".join(part) + "\n, 1" for part in parts]
    assert split_script(" ;\n".join(statements) + ";") == statements


@given(
    value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), wide=st.integers(2**31, 2**63 - 1)
)
def test_literals_survive_the_inlining_of_integers(cursor, value, wide):
    literal = "'" + value.replace("'", "''") + "'"
    assert cursor.execute(f"SELECT {literal}, ?, {literal}, ?", (wide, value)).fetchone() == (value, wide, value, value)


def test_a_script_does_not_split_a_trigger():
    assert split_script(f"SELECT 1; {TRIGGER}; ; SELECT 2 -- the end") == ["SELECT 1", TRIGGER, "SELECT 2 -- the end"]
    assert split_script("-- nothing\n;") == []
