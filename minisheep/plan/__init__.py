"""What a run will take: memory for each phase, disk and time; and settings with which it fits."""
