"""What outlives a command: the record of runs."""
