"""The digests of manifests are of each row's `repr`, which is spelled in pieces: old backups depend on every letter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memory_storage.backup._canonical_text import canonical_parts

LETTERS = "'\"\\\n\t\0\x85aé\u2028\U0001f469\ud800"
TEXTS = st.text(alphabet=LETTERS, max_size=12)
BYTES = TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass"))
ROWS = st.lists(TEXTS | BYTES | st.none() | st.integers() | st.floats(), min_size=1, max_size=4).map(tuple)


@given(ROWS, st.integers(1, 5))
def test_the_pieces_are_the_repr_of_the_row(row, piece):
    assert "".join(canonical_parts(row, piece=piece)) == repr(row)


def test_no_piece_of_a_large_value_is_large():
    row = (1, b"\xff'" * 500_000, 'a"' * 500_000, None)
    pieces = list(canonical_parts(row))
    assert "".join(pieces) == repr(row)
    assert max(map(len, pieces)) <= 4 * 65_536
