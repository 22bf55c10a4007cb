"""A real libSQL server, for the tests of programs that use memory_storage.

`Sqld` is the server, as a child process; `find_sqld` is its program, installed when it is missing. `FakeClock` is time
that passes when a test says so. Two modules are for pytest, and are imported by their names: `fixtures` has storages,
and `conformance` what anything that offers the same repositories has to keep. Nothing here is imported by the rest of
the package.

    with Sqld(directory=tmp_path) as server, MemoryStorage.open(server.url) as storage:
        ...
"""

from ._binary import SQLD_VERSION, find_sqld
from ._clock import FakeClock
from ._sqld import Sqld

__all__ = ["SQLD_VERSION", "FakeClock", "Sqld", "find_sqld"]
