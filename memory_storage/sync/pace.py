"""The size of requests: the greatest allowed, and small after an interruption, so that little is repeated."""

from __future__ import annotations

_LEAST, _GROWTH = 1 / 32, 1.1


class Pace:
    """A share of the greatest size, which grows with each request that succeeds.

    An interruption loses one request. Since that is about a tenth of what was sent since the last interruption, a tenth
    is sent twice, however often a sync is interrupted; and a line that is too slow for great requests gets small ones.
    """

    def __init__(self) -> None:
        self._share = 1.0

    @property
    def is_full(self) -> bool:
        """Whether requests are as great as they may be."""
        return self._share == 1.0

    def slow_down(self) -> None:
        """Continue with small requests: one was interrupted."""
        self._share = _LEAST

    def speed_up(self) -> None:
        """Note that a request has succeeded."""
        self._share = min(1.0, self._share * _GROWTH)

    def of(self, most: int) -> int:
        """Return the share of a size."""
        return max(1, int(most * self._share))
