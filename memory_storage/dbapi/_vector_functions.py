"""libSQL's vector functions for SQLite's own engine: distances in native code where sqlite-vec is installed.

| function | by sqlite-vec | by Python |
|---|---|---|
| `vector_distance_cos`, `vector_distance_l2` | yes, see `prepare` | yes: cosine by numpy if that is installed |
| `vector`, `vector32`, `vector64`, `vector_extract` | no | yes |
| `libsql_vector_idx` | no | refused: its index needs libSQL |

Distances differ by less than 1e-6 from libSQL's, plus libSQL's own rounding error, which exceeds that beyond some 400
dimensions: it adds up 32-bit floats. Two differences remain where libSQL's result is useless: vectors whose lengths
multiply to more than 1e19 or less than 1e-19 have their true distance (libSQL: 1, -infinity or NULL), and a blob whose
length leaves 2 when divided by 4 is refused (libSQL reads past its end). Elements of 16, 8 and 1 bits are refused.
"""

from __future__ import annotations

import math
import os
import re
import sys
from array import array
from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_UP, Context
from functools import lru_cache, partial
from importlib.util import find_spec
from operator import mul
from struct import Struct
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

from ._batch import Value
from ._errors import DataError, NotSupportedError
from ._sql import Kind, function_calls, parse

if TYPE_CHECKING:
    import apsw

_NATIVE_NAMES = {"vector_distance_cos": "vec_distance_cosine", "vector_distance_l2": "vec_distance_l2"}
_NATIVE_ERRORS = ("Error reading 1st vector: ", "Error reading 2nd vector: ", "Vector dimension ")

_FLOAT32, _FLOAT64 = 1, 2
_OTHER_TYPES = {3: "float1bit", 4: "float8", 5: "float16", 6: "floatb16"}
_MAX_DIMENSION = 65_536
_MAX_FLOAT32 = (2 - 2**-23) * 2.0**127
_MIN_FLOAT32 = 2.0**-126
_TYPE_NAMES = {type(None): "NULL", int: "INTEGER", float: "FLOAT"}

_BLANKS = re.compile(r"[ \t\n\v\f\r]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SIX_DIGITS = Context(prec=6, rounding=ROUND_HALF_UP)  # as SQLite's %g rounds; Python's rounds half to even

_dot = getattr(math, "sumprod", lambda one, other: sum(map(mul, one, other)))  # from Python 3.12 on, twice as fast

_Vector = tuple[int, Sequence[float]]  # the type of its elements, and the elements
_Distance = Callable[..., float | None]  # of two values; apsw wants it to take any number


def add_vector_functions(connection: apsw.Connection) -> None:
    """Register the functions on a new connection. Imports and loads nothing: that waits for the first call."""
    import apsw

    # A file may call them in its schema. As in libSQL they are innocuous: PRAGMA trusted_schema = OFF allows that.
    register = partial(connection.create_scalar_function, deterministic=True, flags=apsw.SQLITE_INNOCUOUS)
    for name, (function, arguments) in _FUNCTIONS.items():
        register(name, function, arguments)
    register("vector_distance_cos", _cosine_distance(), 2)  # one for each connection: it remembers the query


def prepare(connection: apsw.Connection, sql: str) -> str:
    """Return the statement to execute instead: with sqlite-vec's functions, which are loaded if it calls one.

    Without sqlite-vec, or where the statement calls no distance function, that is the statement itself.
    """
    translated = translate(sql)
    return translated if translated == sql or _load_sqlite_vec(connection) else sql


@lru_cache(maxsize=1024)
def translate(sql: str) -> str:
    """Return a statement with the names of sqlite-vec's functions in its calls of distance functions.

    Schema statements stay as they are: the file would contain the names, and libSQL could not read it.
    """
    if "vector_distance_" not in sql.lower() or parse(sql).kind not in {Kind.READ, Kind.WRITE}:
        return sql
    pieces, end = [], 0
    for name, start in function_calls(sql):
        if name.lower() in _NATIVE_NAMES:
            pieces += [sql[end:start], _NATIVE_NAMES[name.lower()]]
            end = start + len(name)
    return "".join([*pieces, sql[end:]]) if pieces else sql


def is_native_error(message: str) -> bool:
    """Return whether sqlite-vec refused an argument.

    The untranslated statement accepts what libSQL does, like 64-bit floats, and refuses the rest with libSQL's message.
    """
    return message.startswith(_NATIVE_ERRORS)


_with_sqlite_vec: WeakSet[apsw.Connection] = WeakSet()
_unusable: set[str] = set()  # paths of libraries that could not be loaded


def _load_sqlite_vec(connection: apsw.Connection) -> bool:
    """Load sqlite-vec into a connection, and return whether it has it."""
    import apsw

    if connection in _with_sqlite_vec:
        return True
    path = _sqlite_vec_path()
    if not path or path in _unusable:
        return False
    # The setting, unlike enable_load_extension(), never allows the SQL function load_extension().
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1)
    try:
        connection.load_extension(path)
    except apsw.ExtensionLoadingError:
        _unusable.add(path)  # a wheel for another processor or C library: Python computes the distances
        return False
    finally:
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0)
    _with_sqlite_vec.add(connection)
    return True


@lru_cache(maxsize=1)
def _sqlite_vec_path() -> str:
    """Return the path of sqlite-vec's library without its suffix, or "" if it is not installed."""
    # Importing the package would import sqlite3, and with it another SQLite library.
    spec = find_spec("sqlite_vec")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return os.path.join(folders[0], "vec0") if folders else ""  # noqa: PTH118 - SQLite takes a string


def _cosine_distance() -> _Distance:
    """Return `vector_distance_cos` for one connection; its first call chooses between numpy and plain Python."""
    chosen: _Distance | None = None

    def distance(stored: Value, query: Value) -> float | None:
        nonlocal chosen
        if chosen is None:
            try:
                chosen = cosine_by_numpy()
            except ImportError:
                chosen = cosine_by_python()
        return chosen(stored, query)

    return distance


def cosine_by_numpy() -> _Distance:
    """Return `vector_distance_cos` by numpy."""
    import numpy as np

    # vdot, unlike dot, does not warn of an overflow: libSQL's NULL is the answer then.
    return _cosine_by(lambda _: partial(np.frombuffer, dtype="<f4"), np.vdot)


def cosine_by_python() -> _Distance:
    """Return `vector_distance_cos` in plain Python."""
    return _cosine_by(lambda count: Struct(f"<{count}f").unpack, _dot)


def _cosine_by(unpacker: Callable[[int], Callable[[bytes], Any]], dot: Callable[[Any, Any], Any]) -> _Distance:
    """Return `vector_distance_cos`, by a dot product and a function for unpacking blobs of a given dimension."""
    # A scan compares all rows with the same query: it is unpacked once.
    last: object = object()
    size, unpack, vector, squared = -1, unpacker(0), unpacker(0)(b""), 0.0

    def distance(stored: Value, query: Value) -> float | None:
        nonlocal last, size, unpack, vector, squared
        if query != last:
            last, size = query, -1
            if type(query) is bytes and query and len(query) % 4 == 0:
                size, unpack = len(query), unpacker(len(query) // 4)
                vector = unpack(query)
                squared = float(dot(vector, vector))
        if type(stored) is not bytes or len(stored) != size:
            return _cosine_of_any(stored, query)
        other = unpack(stored)
        return _cosine(float(dot(other, vector)), float(dot(other, other)), squared)

    return distance


def _cosine_of_any(one: Value, other: Value) -> float | None:
    """Return the cosine distance of two vectors in any format. DataError if they cannot be compared."""
    kind, first, second = _pair(one, other)
    least, greatest = (_MIN_FLOAT32, _MAX_FLOAT32) if kind == _FLOAT32 else (sys.float_info.min, sys.float_info.max)
    return _cosine(_dot(first, second), _dot(first, first), _dot(second, second), least, greatest)


def _cosine(
    product: float, one: float, other: float, least: float = _MIN_FLOAT32, greatest: float = _MAX_FLOAT32
) -> float | None:
    """Return the cosine distance for a dot product and two squared lengths; None where libSQL yields NULL."""
    # Native code overflows and underflows there. NaN is in no range.
    if not (least <= one <= greatest and least <= other <= greatest):
        return None
    return 1 - product / (math.sqrt(one) * math.sqrt(other))


def vector_distance_l2(one: Value, other: Value) -> float:
    """Return the Euclidean distance of two vectors. DataError if they cannot be compared."""
    kind, first, second = _pair(one, other)
    distance = math.dist(first, second)
    sum_or_root = distance * distance if kind == _FLOAT32 else distance  # what libSQL keeps as a 32-bit float
    return math.inf if sum_or_root > _MAX_FLOAT32 else distance


def _pair(one: Value, other: Value) -> tuple[int, Sequence[float], Sequence[float]]:
    (kind, first), (other_kind, second) = _decoded(one), _decoded(other)
    if kind != other_kind:
        raise _error(f"vector_distance: vectors must have the same type: {kind} != {other_kind}")
    if len(first) != len(second):
        raise _error(f"vector_distance: vectors must have the same length: {len(first)} != {len(second)}")
    return kind, first, second


def vector32(value: Value) -> bytes:
    """Return the vector as 32-bit floats."""
    return _packed("f", _decoded(value)[1])


def vector64(value: Value) -> bytes:
    """Return the vector as 64-bit floats, with the byte that names their type."""
    return _packed("d", _decoded(value, _FLOAT64)[1]) + bytes([_FLOAT64])


def vector_extract(value: Value) -> str:
    """Return the vector as JSON, with six significant digits; infinity and NaN as libSQL spells them."""
    return f"[{','.join([_number(element) for element in _decoded(value)[1]])}]"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"
    return f"{float(_SIX_DIGITS.create_decimal_from_float(value)) or 0.0:g}"  # `or`: -0 becomes 0


def _packed(code: str, values: Sequence[float]) -> bytes:
    elements = array(code, values)  # an array makes infinity of what is too large; struct raises
    if sys.byteorder == "big":
        elements.byteswap()
    return elements.tobytes()


def _decoded(value: Value, text_type: int = _FLOAT32) -> _Vector:
    """Return a vector with the type of its elements; a string has none, it takes `text_type`."""
    if isinstance(value, str):
        return text_type, _parsed(value, text_type)
    if not isinstance(value, bytes):
        raise _error(f"vector: unexpected value type: got {_TYPE_NAMES[type(value)]}, expected TEXT or BLOB")
    # A blob of odd length ends with a byte that names the type.
    kind, data = (value[-1], value[:-1]) if len(value) % 2 else (_FLOAT32, value)
    if kind not in {_FLOAT32, _FLOAT64}:
        raise _unknown_type(kind)
    width, code = (4, "f") if kind == _FLOAT32 else (8, "d")
    if len(data) % width:
        raise _error(f"vector: float{8 * width} vector blob length must be divisible by {width}: length={len(data)}")
    if len(data) // width > _MAX_DIMENSION:
        raise _error(f"vector: max size exceeded: {len(data) // width} > {_MAX_DIMENSION}")
    return kind, Struct(f"<{len(data) // width}{code}").unpack(data)


def _parsed(text: str, kind: int) -> Sequence[float]:
    text = _BLANKS.sub("", text.partition("\0")[0])  # the engine ends a string there, and skips blanks even in numbers
    if not text.startswith("["):
        raise _error("vector: must start with '['")
    inner, bracket, rest = text[1:].partition("]")
    if not bracket:
        raise _error("vector: must end with ']'")
    if rest:
        raise _error("vector: non-space symbols after closing ']' are forbidden")
    numbers = inner.split(",") if inner else []
    for position, number in enumerate(numbers):
        if not _NUMBER.fullmatch(number):
            raise _error(f"vector: invalid float at position {position}: '{number}'")
    if len(numbers) > _MAX_DIMENSION:
        raise _error(f"vector: max size exceeded {_MAX_DIMENSION}")
    return array("f" if kind == _FLOAT32 else "d", map(float, numbers))


def _unknown_type(kind: int) -> DataError | NotSupportedError:
    if kind not in _OTHER_TYPES:
        return _error(f"vector: unexpected binary type: {kind}")
    return NotSupportedError(
        f"vector: this engine cannot read elements of the type {_OTHER_TYPES[kind]}; nothing was changed; "
        "open the file with local_engine='libsql'",
        "VECTOR_TYPE",
    )


def libsql_vector_idx(*_: Value) -> NoReturn:
    """Refuse to index a row, or to remove one: only libSQL's engine keeps the graph of a DiskANN index.

    Creating the index on an empty table, as older revisions do, and dropping it evaluate nothing. DELETE without WHERE
    does not either: it empties the table, and leaves the graph.
    """
    raise NotSupportedError(
        "this file has a DiskANN index, which only libSQL's engine can keep up to date; nothing was stored; "
        "open it with local_engine='libsql', or drop the index with `memory-storage index use hnsw`",
        "DISKANN_INDEX",
    )


def _error(message: str) -> DataError:
    return DataError(message, "SQLITE_ERROR")


_FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "vector": (vector32, 1),
    "vector32": (vector32, 1),
    "vector64": (vector64, 1),
    "vector_extract": (vector_extract, 1),
    "vector_distance_l2": (vector_distance_l2, 2),
    "libsql_vector_idx": (libsql_vector_idx, -1),
}
