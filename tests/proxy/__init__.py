"""A TCP proxy that delays, throttles, cuts, swallows and refuses; tests of servers and benchmarks use it."""

from .proxy import Proxy

__all__ = ["Proxy"]
