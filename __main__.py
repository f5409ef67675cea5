"""`python -m sandgate` is the command `sandbox`."""

from .cli import main

main()
