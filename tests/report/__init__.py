"""The report: its metrics, its page, and the page in a browser."""
