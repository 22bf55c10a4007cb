"""Many faults at once for minutes: no lost, duplicate or partial write, and recovery."""
