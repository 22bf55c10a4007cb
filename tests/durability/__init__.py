"""What survives: many writers at once, a killed process, a full disk, a fork, a lock, a file that is none."""
