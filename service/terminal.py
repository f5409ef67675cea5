"""What people see at a terminal: a run's output as it comes, a line of progress, and the summary at the end.

Everything that a candidate wrote or named passes through `inert`: no escape sequence of its reaches the terminal.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import TextIO

from ..schemas.run import Run
from ..schemas.text import decoder, inert, one_line

PROGRESS_SECONDS = 0.5
_SIZES = ("B", "KiB", "MiB", "GiB")


class Progress:
    """One line on a terminal's standard error that says what is going on and for how long; nothing elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._shown = not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._text = ""
        self._since = time.monotonic()
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)
        if self._shown:
            self._thread.start()

    def say(self, text: str) -> None:
        """Say what is going on from now on."""
        with self._lock:
            self._text, self._since = one_line(text), time.monotonic()

    def note(self, text: str) -> None:
        """Say what is going on, and where there is no terminal print it: it may take long."""
        self.say(text)
        if not self._shown and not self._quiet:
            complain(text)

    def stop(self) -> None:
        """Take the line away for good: from now on the screen belongs to the run's output."""
        if self._shown and not self._done.is_set():
            self._done.set()
            self._thread.join()
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _tick(self) -> None:
        while not self._done.wait(PROGRESS_SECONDS):
            with self._lock:
                line = f"{self._text} ... {time.monotonic() - self._since:.0f} s"
                sys.stderr.write(f"\r\x1b[K{line[: get_terminal_size().columns - 1]}")
                sys.stderr.flush()


class LiveOutput:
    """Passes a run's output on as it comes, made inert. A reader that went away is no reason to stop the run."""

    def __init__(self, name: str, progress: Progress) -> None:
        self._name = name
        self._progress = progress
        self._decoders = {"stdout": decoder(), "stderr": decoder()}
        self._ends_in_line = True

    def take(self, stream: str, chunk: bytes) -> None:
        """Show a chunk of `stdout` or `stderr`; `started` says that the candidate begins."""
        if stream in self._decoders:
            self._show(stream, self._decoders[stream].decode(chunk))
        else:
            self._progress.say(f"running {self._name}")

    def finish(self) -> None:
        """Show what was held back of a cut character, and end the last line."""
        for stream, rest in self._decoders.items():
            self._show(stream, rest.decode(b"", True))
        if not self._ends_in_line:
            _write(sys.stdout, "\n")

    def _show(self, stream: str, text: str) -> None:
        if text:
            self._progress.stop()
            self._ends_in_line = text.endswith("\n")
            _write(sys.stdout if stream == "stdout" else sys.stderr, inert(text))


def prepare() -> None:
    """Let nothing that is printed fail on the terminal's encoding, and a closed stream be no error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  for good
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _write(file: TextIO, text: str) -> None:
    try:
        file.write(text)
        file.flush()
    except OSError:
        # Nobody reads on, or the disk is full: what the run is worth does not depend on it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def say(text: str) -> None:
    """Print a line of ours to standard output."""
    _write(sys.stdout, text + "\n")


def complain(text: str) -> None:
    """Print a line of ours to standard error."""
    _write(sys.stderr, text + "\n")


def summary(run: Run, folder: Path) -> str:
    """Return what a person wants to know of a run, as lines."""
    lines = [f"{run.verdict}  {run.file}  {run.reason}", f"  {_usage(run)}"]
    for name, stream in (("stdout", run.stdout), ("stderr", run.stderr)):
        if stream.dropped:
            lines.append(f"  {name} truncated: {size(stream.dropped)} of {size(stream.total)} were dropped")
    lines += _strategy(run)
    lines.append(f"  in {folder}")
    lines += [f"    artifacts/{artifact.path}  {size(artifact.size)}" for artifact in run.artifacts]
    lines += [f"    not taken: {refused.name}: {refused.reason}" for refused in run.refused]
    if run.evaluation and run.evaluation.equity:
        lines += ["    report.html", "    equity.svg"]
    return "\n".join(lines)


def _usage(run: Run) -> str:
    usage, parts = run.usage, []
    parts.append(f"exit {run.exit_code}" if run.signal is None else f"signal {run.signal}")
    parts.append(f"wall {usage.wall_seconds:.2f} s of {run.limits.timeout:g}")
    if usage.cpu_seconds is not None:
        parts.append(f"cpu {usage.cpu_seconds:.2f} s")
    if usage.memory_peak is not None:
        parts.append(f"memory {size(usage.memory_peak)} of {size(run.limits.memory)}")
    if usage.network_attempts:
        parts.append(f"{usage.network_attempts} refused network attempts")
    if usage.oom_events:
        parts.append(f"{usage.oom_events} out-of-memory kills")
    parts.append(f"image {run.image.profile}")
    parts.append(run.runtime)
    return " · ".join(parts)


def _strategy(run: Run) -> list[str]:
    lines: list[str] = []
    if run.claim is not None:
        lines.append(f"  the candidate's own claim, made by {one_line(run.claim.framework)}; nothing of it was checked")
        lines += _metrics(run.claim.metrics)
    if run.evaluation is not None:
        costs = run.evaluation.costs
        lines.append(
            f"  {run.evaluation.strategy}, computed from its positions outside the container: "
            f"commission {costs.commission:.2%}, slippage {costs.slippage:.2%}, next-bar-open fills"
        )
        lines += _metrics(run.evaluation.metrics)
        lines += [f"  {finding.rule}: {finding.message}; {finding.hint}" for finding in run.evaluation.findings]
        lines += [f"  note: {note}" for note in run.evaluation.notes]
    return lines


def _metrics(metrics: dict[str, float | str | None]) -> list[str]:
    width = max((len(name) for name in metrics), default=0)
    return [f"    {one_line(name):<{width}}  {_value(value)}" for name, value in metrics.items()]


def _value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, int | float):
        if abs(value) >= 1e12:
            return f"{value:.3g}"
        if value == int(value):
            return f"{value:,.0f}"
        return f"{value:,.2f}" if abs(value) >= 100 else f"{value:.4g}"
    return one_line(str(value))


def table(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as columns; the last column is cut to what the terminal has left."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    columns = get_terminal_size().columns if sys.stdout.isatty() else 10_000
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
    return "\n".join(line[:columns] for line in lines)


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_SIZES) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.3g} {_SIZES[unit]}" if unit else f"{count} B"
