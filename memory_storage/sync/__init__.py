"""Reconciliation of a file with a server: the log of changes, push, pull, merges and conflicts.

`replica.py` has the rounds of a sync; `server.py` the requests, `local.py` the file, `rows.py` and `counts.py` what
travels, `writing.py` the SQL that stores it, `applying.py` and `merging.py` what becomes of it here.
"""
