"""The words every layer shares: limits, evidence, settings and errors. Imports nothing of ours."""
