"""Sandgate: the gate between a language model and main.

    from sandgate import Limits, run

    result = run("codes/sma_cross.py", limits=Limits(timeout=10))
    print(result.status, result.evaluation.metrics["Sharpe Ratio"])

`run` and `arun` raise GateError and its children when the answer could not be found; what the candidate does, good
or bad, is in the returned `Run`. The names below are the public API; they are loaded at first use, as the engine's
library alone takes a quarter of a second to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .patchflow.api import arun, run
    from .schemas.errors import EngineError, GateError, PrerequisiteError, SealError, UsageError
    from .schemas.evaluation import Costs, Evaluation
    from .schemas.limits import Limits
    from .schemas.run import Isolation, Run, Status
    from .schemas.settings import Settings, load_settings

__all__ = [
    "Costs",
    "EngineError",
    "Evaluation",
    "GateError",
    "Isolation",
    "Limits",
    "PrerequisiteError",
    "Run",
    "SealError",
    "Settings",
    "Status",
    "UsageError",
    "arun",
    "load_settings",
    "run",
]

_HOMES = {
    "patchflow.api": ("arun", "run"),
    "schemas.errors": ("EngineError", "GateError", "PrerequisiteError", "SealError", "UsageError"),
    "schemas.evaluation": ("Costs", "Evaluation"),
    "schemas.limits": ("Limits",),
    "schemas.run": ("Isolation", "Run", "Status"),
    "schemas.settings": ("Settings", "load_settings"),
}


if not TYPE_CHECKING:  # Seen by a type checker, it would make every misspelt name pass.

    def __getattr__(name: str) -> Any:
        for home, names in _HOMES.items():
            if name in names:
                return getattr(import_module(f".{home}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return [*globals(), *__all__]
