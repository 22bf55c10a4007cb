"""The features of SQLite, and so of libSQL, where they differ from SQLAlchemy's defaults."""

from sqlalchemy.testing import exclusions
from sqlalchemy.testing.requirements import SuiteRequirements

_OPEN = """
    autocommit isolation_level skip_autocommit_rollback
    boolean_col_expressions ctes ctes_with_values except_ intersect nullsordering order_by_collation
    order_by_label_with_expression tuple_in update_from window_functions window_range window_range_numeric
    supports_bitwise_and supports_bitwise_not supports_bitwise_or supports_bitwise_shift supports_bitwise_xor
    regexp_match mod_operator_as_percent_sign fetch_expression fetch_offset_with_options
    create_table_as create_temp_table_as table_ddl_if_exists index_ddl_if_exists indexes_with_expressions
    unicode_ddl percent_schema_names reflect_table_options server_defaults expression_server_defaults views
    computed_columns computed_columns_stored computed_columns_virtual computed_columns_reflect_persisted
    check_constraint_reflection inline_check_constraint_reflection indexes_check_column_order reflects_pk_names
    foreign_key_constraint_name_reflection repeated_column_foreign_keys non_updating_cascade
    foreign_key_constraint_option_reflection_ondelete foreign_key_constraint_option_reflection_onupdate
    fk_constraint_option_reflection_ondelete_noaction fk_constraint_option_reflection_ondelete_restrict
    fk_constraint_option_reflection_onupdate_restrict
    date_historic datetime_historic datetime_literals nvarchar_types
    json_type legacy_unconditional_json_extract
    infinity_floats float_or_double_precision_behaves_generically
    precision_numerics_enotation_small precision_numerics_retains_significant_digits
    dbapi_lastrowid emulated_lastrowid emulated_lastrowid_even_with_sequences
""".split()  # noqa: SIM905 - as a list it would be 90 lines

_CLOSED = {
    "foreign_keys": "SQLite checks them only where the pragma says so",
    "on_update_or_deferrable_fks": "SQLite checks them only where the pragma says so",
    "implicitly_named_constraints": "SQLite does not name constraints by itself",
    "independent_connections": "SQLite has one writer",
    "json_index_supplementary_unicode_element": "SQLite's JSON paths do not find such keys",
    "nested_aggregates": "SQLite refuses them",
    "temporary_tables": "the suite's fixtures for them need one connection, a file has a pool",
}

_FAILS = {
    "numeric_received_as_decimal_untyped": "SQLite has no type for decimals",
    "parens_in_union_contained_select_w_limit_offset": "SQLite's grammar has no such parentheses",
    "parens_in_union_contained_select_wo_limit_offset": "SQLite's grammar has no such parentheses",
    "precision_numerics_many_significant_digits": "SQLite keeps numerics as floats",
}


class Requirements(SuiteRequirements):
    """SQLAlchemy's answers for SQLite files, restated."""

    on_update_cascade = temp_table_reflection = temp_table_reflect_indexes = property(lambda self: exclusions.closed())

    schemas = property(lambda self: exclusions.skip_if(_is_server, "the server refuses ATTACH"))

    def get_order_by_collation(self, config: object) -> str:
        """A collation that every SQLite has."""
        return "NOCASE"


def _is_server(config: object) -> bool:
    return bool(config.db.url.host)


def _always(answer: exclusions.compound) -> property:
    return property(lambda self: answer)


for name in _OPEN:
    setattr(Requirements, name, _always(exclusions.open()))
for name, reason in _CLOSED.items():
    setattr(Requirements, name, _always(exclusions.closed(reason)))
for name, reason in _FAILS.items():
    setattr(Requirements, name, _always(exclusions.fails(reason)))
