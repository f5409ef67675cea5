"""Sandgate: the gate between a language model and main."""
