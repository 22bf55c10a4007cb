"""The pytest plugin of a suite session: SQLAlchemy's own, and how a libSQL database is provided to it."""

import pytest

pytest.register_assert_rewrite("sqlalchemy.testing.assertions")

from sqlalchemy.dialects.sqlite import provision as sqlite  # noqa: E402 - after the assertions are to be rewritten
from sqlalchemy.testing import provision  # noqa: E402
from sqlalchemy.testing.plugin.pytestplugin import *  # noqa: E402, F403 - its hooks become this plugin's

_OURS = (provision.generate_driver_url, provision.post_configure_engine)

# Provisioning goes by the name in the URL. What works for sqlite:// works for libsql://, but for these two.
for hook in vars(sqlite).values():
    if isinstance(hook, provision.register) and hook not in _OURS:
        hook.for_db("libsql")(hook.fns["sqlite"])


@provision.generate_driver_url.for_db("libsql")
def _the_same_url(url, driver, query_str):
    return url  # there is one driver, and the URL does not name it


@provision.post_configure_engine.for_db("libsql")
def _attach_the_other_schema(url, engine, follower_ident):
    if not url.host:  # a server has no files to attach
        sqlite.post_configure_engine.fns["sqlite"](url, engine, follower_ident)
