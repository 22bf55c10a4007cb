"""How Python agents remember: episodes with their steps and outcomes, patterns, vectors, places, on libSQL.

The public names are listed in `__init__.pyi`; each is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
