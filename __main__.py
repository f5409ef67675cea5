"""`python -m sandgate` is the command `sandbox`."""
