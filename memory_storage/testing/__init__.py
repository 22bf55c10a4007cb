"""Test support for programs that use memory_storage.

`Sqld` runs a real libSQL server as a child process; `find_sqld` finds or installs its program. `FakeClock` is a clock
that only advances when the test advances it. Two modules for pytest are imported by name: `fixtures` has storages, and
`conformance` has the tests of the repository contract.

    with Sqld(directory=tmp_path) as server, MemoryStorage.open(server.url) as storage:
        ...
"""

from ._binary import SQLD_VERSION, find_sqld
from ._clock import FakeClock
from ._sqld import Sqld

__all__ = ["SQLD_VERSION", "FakeClock", "Sqld", "find_sqld"]
