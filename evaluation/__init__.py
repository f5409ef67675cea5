"""Decides from what a run produced: positions and pinned data in, trades and metrics out."""
