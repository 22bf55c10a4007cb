"""A released revision does what it did when it was released: its id and its statements never change."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event

from memory_storage import migrate
from memory_storage.schema import HEAD
from memory_storage.schema.revisions import REVISIONS

OFFLINE: dict[str, tuple[str, str]] = {
    "0001": ("964c238cbfee255d340701378f593117", "d02410af5b9bc6e526c4dc1f082e7f75"),
    "0002": ("24dcdc39833a65c4777c4217b0aa004e", "10175c8f2111d1bc04c47b4a3e7655b9"),
    "0003": ("6f12be81dbe15a97aa466d3761a573c1", "bafb7a95805e25ae20d0f8d759497152"),
    "0004": ("f8f243214729081b394e9a9ad29b48a0", "ef244fbe504b506b109e110b8d61bb1d"),
    "0005": ("b7b2924a840c268e2aaa8ebc62f0800f", "9e66e175ade8007bfcc4ba69e223d76a"),
    "0006": ("9f0f5dee61822310ec77492ae6ee73c4", "4f3f68f45959765d86df8e8ec21948b8"),
    "0007": ("8396bed19e7bc2aae183f9f17fac2fd7", "576c31705a9abecd570f35c48b08af24"),
    "0008": ("756adb5d7e81b90a6b662e342ac736e7", "5a2640f7a717646685c47730561da4d1"),
    "0009": ("c34c5710e88b479462ed9567bd7805b9", "462e9eefc5151e1052fd8badb8261e5c"),
    "0010": ("e0191038eeb8893ccf442c42fb995d46", "db94b9a1f3b800b2712e3f77cc1bd9a7"),
    "0011": ("12beddabf98b0dd0bad8338313dcfbca", "c1043f382abf2b98ca9c4c492bf33b53"),
    "0012": ("20ff27cdcd303f9df1e62c26d23168be", "d9ebc4439a2a25e9f75f3a54e1664e0a"),
    "0013": ("1e8e895398bbe893acdb39bf8b252b46", "a532533c4dac28846bea0405e600bc58"),
    "0014": ("9b3bff69e16b36c7ad3e4cfcf85e0656", "0f94eb9199b6cfe5e3a793c42881183b"),
    "0015": ("cbf139d76bb5f15681569554e0bdbc24", "203745d0f2635be6071acf96f3d4451f"),
    "0016": ("e2ac2c4ca6ea839bb3e3169a80f72c63", "c26961e5c059c5c8b62eb9d63a3c2426"),
}
"""For each revision, the digests of the SQL that `alembic upgrade --sql` and `alembic downgrade --sql` print."""

ONLINE: dict[str, tuple[str, str]] = {
    "0001": ("2ebb41293423a48737f0a03675c07d8e", "486ed6b0f774e1e3cafab9b333c03dcf"),
    "0002": ("33e731423913edf3db2f98f539bddcfc", "2b42ce737ed4bc3a573631ebca9f4bbf"),
    "0003": ("2e1b0b1f79b13974bb9989c3249f7bc7", "50fecef52b24c412d255587cbaadc46e"),
    "0004": ("0f8170e0adda96e70fffffd7ea3d740e", "ad4438d361996b4987d81fe8f7d36d38"),
    "0005": ("6af992bccf5ee0a2fd41fe22bb56bd8f", "5fce41c8f7cfe4cbc5d2bb987e24ff7d"),
    "0006": ("ba4c171fde85e086ac50b8d6119e1904", "aa67d63a32e62b90b3432a960654871f"),
    "0007": ("05d1a9e1c7b6a8631a87103ad4b0f54b", "f913a8a394d4a8abc10854e24012d832"),
    "0008": ("cfde4130c58621c83a101f7cf865afbe", "962f3428d8c22a7dcaf4721c829c1d32"),
    "0009": ("5fd999c05a268c4dd6ff1aeaf52e46c2", "fcde44cd57e876549cedfe16cba51e73"),
    "0010": ("ad29a733e5f415922e3203d49433837b", "022be1c03fc26b1c1360b7e6b02411a6"),
    "0011": ("9968f585bd87cd98316db754e90fb248", "cae8e6f5cc6f65c7c4ab77858574c95e"),
    "0012": ("d31dea32ecf99d8b505031abdaef2f6e", "f630bc19b1f61ff8003a3ef7e6fdd457"),
    "0013": ("0e086d07678381b7b7df91b4b0b8cebb", "f5cea7494a3f1ac7ea5c9885e1bb89f4"),
    "0014": ("7e14a5f7762ffd58d61ed0391f124008", "dc1d687ed568277a3d94f3a09ce1aa41"),
    "0015": ("8d73a27bf7226882458960e960b674a5", "7a702e69fffe27306bab75a242d21fd1"),
    "0016": ("6539dd65bd333b03ec335d9cd6670b59", "bb85869a015d4334ee5805b71851ea94"),
}
"""For each revision, the digests of the statements that an upgrade and a downgrade run on a file without rows."""


def digest(statements: Iterable[str]) -> str:
    """The digest of the revision's own statements, but for white space: what Alembic adds may change with it."""
    own = (one for one in statements if not any(word in one for word in ("alembic_version", "PRAGMA")))
    return blake2b(" ".join(" ".join(one.split()) for one in own).encode(), digest_size=16).hexdigest()


def revisions() -> list[Any]:
    return list(reversed(list(ScriptDirectory.from_config(migrate.config()).walk_revisions())))


def printed(go: Any, steps: str) -> str:
    settings = migrate.config()
    settings.output_buffer = io.StringIO()
    go(settings, steps, sql=True)
    return digest(re.sub("-- Running .*", "", settings.output_buffer.getvalue()).split(";\n"))


def test_the_sql_that_alembic_prints_is_as_released():
    found = {}
    for script in revisions():
        before, after = script.down_revision or "base", script.revision
        found[after] = (
            printed(command.upgrade, f"{before}:{after}"),
            printed(command.downgrade, f"{after}:{before}"),
        )
    assert {key: found[key] for key in OFFLINE} == OFFLINE


@pytest.fixture
def engine(database: Path) -> Any:
    engine = create_engine(f"libsql:///{database}")
    yield engine
    engine.dispose()


def run(engine: Engine, go: Any, revision: str) -> str:
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: Any, *_: object) -> None:
        statements.append(str(statement))  # a batch is the text of its statements

    event.listen(engine, "before_cursor_execute", note)
    try:
        go(engine, revision)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    return digest(statements)


def test_the_statements_that_run_are_as_released(engine: Engine):
    ups, downs = {}, {}
    for script in revisions():
        ups[script.revision] = run(engine, migrate.upgrade, script.revision)
    for script in reversed(revisions()):
        downs[script.revision] = run(engine, migrate.downgrade, script.down_revision or "base")
    found = {revision: (ups[revision], downs[revision]) for revision in ups}
    assert {key: found[key] for key in ONLINE} == ONLINE


def test_every_revision_has_its_digests_and_is_described():
    ids = [script.revision for script in revisions()]
    assert list(OFFLINE) == list(ONLINE) == list(REVISIONS) == ids
    assert ids[-1] == HEAD
