"""Tests that pysqlite passes and libSQL cannot, with the reason. Remove an entry once its test passes.

An entry is the name of a test, the start of several names with a "*", or what the suite says when it skips a test.
"""

_FOREIGN_KEYS = "its foreign key refers to a column that is not unique, and libSQL connections enforce foreign keys"
_ATTACH = "it needs a second database, and the server refuses ATTACH"
_LEVELS = "the server has one isolation level besides AUTOCOMMIT, and this needs two"

CANNOT_PASS_ON_A_FILE: dict[str, str] = {
    "UnicodeSchemaTest::test_col_targeting": _FOREIGN_KEYS,
    "UnicodeSchemaTest::test_insert": _FOREIGN_KEYS,
    "UnicodeSchemaTest::test_reflect": _FOREIGN_KEYS,
    "UnicodeSchemaTest::test_repr": _FOREIGN_KEYS,
}

CANNOT_PASS_ON_A_SERVER: dict[str, str] = {
    **CANNOT_PASS_ON_A_FILE,
    "skipped: the server refuses ATTACH": _ATTACH,
    "SameNamedSchemaTableTest::*": _ATTACH,
    "ComponentReflectionTest::test_metadata[False-_exclusions_01-True]": _ATTACH,
    "ComponentReflectionTest::test_metadata[True-_exclusions_00-True]": _ATTACH,
    "ComponentReflectionTestExtra::test_check_constraint_inline[True*": _ATTACH,
    "ComponentReflectionTestExtra::test_check_constraint_mixed[True*": _ATTACH,
    "ComponentReflectionTestExtra::test_check_constraint_no_constraint[True*": _ATTACH,
    "ComponentReflectionTestExtra::test_check_constraint_parenthesized_expressions[True*": _ATTACH,
    "ComponentReflectionTestExtra::test_check_constraint_standalone[True*": _ATTACH,
    "TableViaSelectTest::test_without_metadata[use_temp0]": "the server refuses temporary tables",
    "IsolationLevelTest::test_non_default_isolation_level": _LEVELS,
    "IsolationLevelTest::test_dialect_user_setting_is_restored": _LEVELS,
    "NumericTest::test_infinity_floats": "the server's protocol has no infinity",
}
