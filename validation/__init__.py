"""Decides from text alone; never runs anything."""
