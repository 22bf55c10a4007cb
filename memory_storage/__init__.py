"""Episodic memory for AI agents, stored in libSQL: episodes with steps and outcomes, patterns, vectors, places.

The public names are listed in `__init__.pyi`; each is loaded when it is first used.
"""

import sys

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name in __all__ or name.startswith("_"):
        return _load(name)
    from ._former_names import FORMER_NAMES

    if name in FORMER_NAMES:
        from ._deprecation import renamed_names

        return renamed_names(__name__, FORMER_NAMES)(name)
    from ._rust_names import WRITE
    from .suggestions import nearest

    advice = f": write {WRITE[name]}" if name in WRITE else ""
    if not advice and (public := nearest(name, __all__)):
        advice = f"; did you mean {public!r}?"
    problem = f"memory_storage has no {name!r}{advice}"
    if name in WRITE and sys._getframe(1).f_code.co_name == "_handle_fromlist":
        raise ImportError(problem, name=__name__)  # `from ... import` would replace an AttributeError by its own words
    raise AttributeError(problem, name=name, obj=sys.modules[__name__])
