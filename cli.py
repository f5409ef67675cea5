"""The command `sandbox`: words in, one call, words out, exit code."""
