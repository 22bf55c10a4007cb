"""A real libSQL server and a faulty network, for the tests of programs that use memory_storage.

`Sqld` is the server, as a child process; `find_sqld` is its program, installed when it is missing. `Proxy` stands
between a client and a server, counts what passes, and delays, cuts or swallows it. `FakeClock` is time that passes
when a test says so. Two modules are for pytest, and are imported by their names: `fixtures` has storages, and
`conformance` what anything that offers the same repositories has to keep. Nothing here is imported by the rest of the
package.

    with Sqld(directory=tmp_path) as server, Proxy(server.port, latency=0.05) as proxy:
        proxy.cut_reply_after(0)  # the server does what it is asked, and the client never hears
        ...
        assert proxy.round_trips == 2
"""

from ._binary import SQLD_VERSION, find_sqld
from ._clock import FakeClock
from ._proxy import Proxy
from ._sqld import Sqld

__all__ = ["SQLD_VERSION", "FakeClock", "Proxy", "Sqld", "find_sqld"]
