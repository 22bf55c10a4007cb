"""`python -m memory_storage`."""

from .cli import main

main()
