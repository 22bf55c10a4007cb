"""How much travels in one request: all that it may, and little after an interruption, so that little is repeated."""

from __future__ import annotations

_LEAST, _GROWTH = 1 / 32, 1.1


class Pace:
    """A share of the greatest requests, which grows while they succeed.

    What was on its way is lost with an interruption. As each request is about a tenth of all since the last one, what
    is sent twice is a tenth too, however often it happens; and a line that is too slow for great requests gets small.
    """

    def __init__(self) -> None:
        self._share = 1.0

    @property
    def is_full(self) -> bool:
        """Whether requests are as great as they may be."""
        return self._share == 1.0

    def slow_down(self) -> None:
        """Begin with little: a request was interrupted."""
        self._share = _LEAST

    def speed_up(self) -> None:
        """Note that a request has succeeded."""
        self._share = min(1.0, self._share * _GROWTH)

    def of(self, most: int) -> int:
        """Return the share of a size."""
        return max(1, int(most * self._share))
