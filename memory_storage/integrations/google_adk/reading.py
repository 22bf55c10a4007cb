"""Reads of items and of whole lists of items: one round trip, or one snapshot if a list has more than a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from memory_storage.aio import AsyncItemRepository, AsyncMemoryStorage
from memory_storage.models import GetItem, Item, ItemPath, QueryItems


@dataclass(frozen=True)
class Listing:
    """The items below a path, in the order of path and key.

    Attributes:
        prefix: The first labels of their paths.
        filter: Conditions on their values, or None.
        limit: The maximum number of items; None for all.
    """

    prefix: ItemPath
    filter: Mapping[str, Any] | None = None
    limit: int | None = None


async def read(
    storage: AsyncMemoryStorage, gets: Sequence[GetItem], listings: Sequence[Listing]
) -> tuple[list[Item | None], list[list[Item]]]:
    """Return items, and lists of items, as they are at one moment.

    Args:
        storage: Where they are stored.
        gets: The items.
        listings: The lists.

    Returns:
        For each of `gets` the item or None, and for each listing its items.
    """
    page = storage.settings.limits.query_maximum
    queries = [QueryItems(prefix=one.prefix, filter=one.filter, limit=min(page, one.limit or page)) for one in listings]
    results = await storage.items.batch([*gets, *queries])
    pages = results[len(gets) :]
    if all(len(items) < page or one.limit == page for one, items in zip(listings, pages, strict=True)):
        return results[: len(gets)], pages
    async with storage.snapshot() as view:
        found = await view.items.batch(gets) if gets else []
        return found, [await _all(view.items, one) for one in listings]


async def _all(items: AsyncItemRepository, listing: Listing) -> list[Item]:
    found: list[Item] = []
    async for item in items.iterate(listing.prefix, filter=listing.filter):
        found.append(item)
        if len(found) == listing.limit:
            break
    return found


def value_of(item: Item) -> dict[str, Any]:
    """Return the value of an item that a service has stored: an object."""
    return cast("dict[str, Any]", item.value)
