"""The report: its figures, its page, and what a browser makes of it."""
