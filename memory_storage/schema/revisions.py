"""Descriptions of the revisions of the schema, for the command `downgrade` and the reference of the schema."""

from __future__ import annotations

from typing import NamedTuple


class Revision(NamedTuple):
    """One revision, described.

    Attributes:
        brings: what an upgrade adds, and what it does to existing rows.
        loses: what a downgrade to the revision before it removes for good, or stops from working.
        blocker: the rows that a downgrade refuses to drop; delete them first. Empty if there are none.
    """

    brings: str
    loses: str
    blocker: str = ""


REVISIONS = {
    "0001": Revision(
        "the tables `episodes`, `steps`, `patterns`, `embeddings`, `spatiotemporal_index` and `facets`, with their "
        "indexes, views and triggers",
        "every row of every namespace: episodes, steps, patterns, embeddings and places",
    ),
    "0002": Revision(
        "the table `receipts`, which resolves the outcome of a write whose acknowledgement is lost",
        "the receipts of the last day: a write that runs concurrently may end with its outcome unknown",
    ),
    "0003": Revision(
        "a table of distinct vectors and a DiskANN index for each embedding model, and full-text search of patterns; "
        "moves the vectors out of the columns of `embeddings`",
        "full-text search of patterns, and the preset of each vector index; vectors move back into `embeddings`",
        "vectors of another dimension than 384, 768, 1024, 1536 and 3072",
    ),
    "0004": Revision(
        "R*Trees of positions and of time intervals, points on the unit sphere, and places that are ongoing; computes "
        "them for existing entries",
        "that a place is ongoing: it becomes a point in time, its start",
    ),
    "0005": Revision(
        "the table `forgotten` (tombstones of what was erased), and the evidence of patterns as facets",
        "the tombstones: an import or a save can bring back what was erased",
    ),
    "0006": Revision(
        "a vector table for each model and dimension, and in `embeddings` which text a vector was made from",
        "which text each vector was made from: `embeddings.embed` then does not notice changed texts",
        "vectors of a model's second dimension",
    ),
    "0007": Revision(
        "full-text search in every script; respells the text of rows that are not in ASCII, and indexes all text again",
        "full-text search of scripts without spaces between words, and of letters in another Unicode form",
    ),
    "0008": Revision(
        "tags of an episode's or a pattern's context as facets, and triggers that write only the facets that change",
        "that filters by tag find the tags of a context",
    ),
    "0009": Revision(
        "one full-text index of episodes, in which each namespace is a range, kept up to date in batches; documents "
        "without what the columns have",
        "that a search reads only the words of its own namespace, and that a save leaves the full-text index alone",
    ),
    "0010": Revision(
        "facets in the order of time, so that a page by a tag or metadata is a range of the index; those of changed "
        "episodes are added in batches",
        "that such a page takes as long in a large memory as in a small one, and that a save writes no facets",
    ),
    "0011": Revision(
        "the tables of reconciliation with a server (`sync_*`), and triggers that log changes while it is on",
        "reconciliation: what was not pushed yet stays, but is not known to be new; and the conflicts that were kept",
    ),
    "0012": Revision(
        "the tables `items` (documents by path and key), `item_vectors` and `logs` (ordered records)",
        "every item and every record of a log, in every namespace",
    ),
    "0013": Revision(
        "the tables `relationships` (from one episode to another) and `checkpoints` (states of episodes)",
        "every relationship and every checkpoint, in every namespace",
    ),
    "0014": Revision(
        "counts of what episodes have in common (`sequences`, `learned`, `unlearned`, `learning`), so that `learn` "
        "reads only what has changed",
        "the counts, the statistics of patterns, and every playbook: other patterns stay, and the next `learn` reads "
        "all episodes",
    ),
    "0015": Revision(
        "the table `recalls` (receipts of recalls, so that any process can complete with one), and what episodes were "
        "shown and have used as facets",
        "the kept receipts, and what episodes have used and how they rated it; what they were shown stays",
    ),
    "0016": Revision(
        "that full-text search finds the summaries of episodes",
        "the summary of every episode, in every namespace",
    ),
}
"""By its id, in the order of the ids. The newest is `HEAD`."""
