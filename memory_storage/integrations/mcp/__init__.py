"""A Model Context Protocol (MCP) server on a storage: agents recall, record and search by tools. Needs the extra `mcp`.

from memory_storage.integrations.mcp import make_server
make_server(storage).run("stdio")

`memory-storage mcp` runs it from the command line, over stdio or HTTP.
"""

from memory_storage.errors import ConfigurationError

try:
    from mcp.server import MCPServer as _  # noqa: F401 - the class that version 1 of the SDK does not have
except ImportError as error:
    raise ConfigurationError(
        "the MCP server needs version 2 of the MCP SDK; run: pip install 'memory-storage[mcp]'"
    ) from error

from .http import HttpOptions, make_http_app, read_token, run_http
from .server import make_server
from .stdio import run_stdio
from .tools import MAX_CHARACTERS

__all__ = ["MAX_CHARACTERS", "HttpOptions", "make_http_app", "make_server", "read_token", "run_http", "run_stdio"]
