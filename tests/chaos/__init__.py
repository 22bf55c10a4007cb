"""Everything that goes wrong, at once and for minutes: nothing is lost, doubled or half done, and it recovers."""
