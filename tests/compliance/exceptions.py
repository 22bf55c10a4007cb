"""Tests that pysqlite passes and libSQL cannot, with the reason. One that passes after all has to go from here."""

_FOREIGN_KEYS = "its foreign key refers to a column that is not unique, and libSQL connections enforce foreign keys"

CANNOT_PASS: dict[str, str] = {
    "UnicodeSchemaTest::test_col_targeting": _FOREIGN_KEYS,
    "UnicodeSchemaTest::test_insert": _FOREIGN_KEYS,
    "UnicodeSchemaTest::test_reflect": _FOREIGN_KEYS,
    "UnicodeSchemaTest::test_repr": _FOREIGN_KEYS,
}
