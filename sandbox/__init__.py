"""Runs one file in a sealed container. Knows no git and no candidate states."""
