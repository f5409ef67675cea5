"""The child's last act: become the candidate. What is left of this interpreter belongs to the candidate.

A plain file runs as `__main__`; a strategy is imported as a module, so that the demonstration that many files end with
does not run. Its namespace is fresh, its folder the output folder, and our modules are out of its way: a candidate's
own files come last on the path, so they shadow neither the standard library nor what the image ships.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import traceback
from types import ModuleType, TracebackType
from typing import Any

INSIDE = os.path.dirname(os.path.abspath(__file__))
RESULT_FD = 3


def become(path: str, code: bytes, bars: bytes, header: dict[str, Any]) -> None:
    """Run the candidate's file as its contract says. Exits like an interpreter that was given the file."""
    harness = _harness(header["contract"])
    _leave_no_trace()
    os.environ.clear()
    os.environ.update(header["environment"])
    os.chdir("/out")
    sys.argv = [path, *header["arguments"]]
    sys.path.append(os.path.dirname(path))
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    # Asked to end, a run first prints where it was.
    faulthandler.register(signal.SIGTERM, file=sys.__stderr__.fileno(), chain=True)  # type: ignore[union-attr]
    module = ModuleType("__main__" if harness is None else "strategy")
    module.__dict__.update(__file__=path, __builtins__=__builtins__)
    sys.modules[module.__name__] = module
    sys.excepthook = _without_our_frames
    exec(compile(code, path, "exec", dont_inherit=True), module.__dict__)
    if harness is not None:
        _answer(harness.run(module.__dict__, bars, header["options"]))


def _harness(contract: str) -> Any:
    """Return the module that calls a strategy, none for a plain file. Loaded before the candidate can interfere."""
    if contract == "signals":
        import signals

        return signals
    if contract == "backtesting":
        import backtesting_run

        return backtesting_run
    return None


def _leave_no_trace() -> None:
    """Take our modules off the path and out of the table, so that a candidate's `import child` is its own affair."""
    sys.path.remove(INSIDE)
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(INSIDE) and name != "__main__":
            del sys.modules[name]


def _answer(result: dict[str, Any]) -> None:
    with open(RESULT_FD, "w", encoding="ascii") as pipe:
        json.dump(result, pipe, allow_nan=False)


def _without_our_frames(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught exception from the candidate's first frame on."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(INSIDE):
        trace = trace.tb_next
    traceback.print_exception(kind, error, trace)
