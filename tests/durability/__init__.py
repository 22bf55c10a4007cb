"""Durability: many writers, killed processes, full disks, forks, locks, and files that are not databases."""
