"""Tests of the driver and of the SQLAlchemy dialect, on real files and in memory."""
