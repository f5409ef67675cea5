"""Takes in one file of Python, and tells from its text alone what kind of program it is. Never runs any of it.

The bytes that are read here are the ones that run: nothing reads the file a second time.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from ..schemas.errors import UsageError
from ..schemas.text import one_line

MAX_BYTES = 4 * 1024 * 1024
WALL_SECONDS = 10

_CHILD = Path(__file__).parent / "shape_child.py"
_KINDS = (
    (stat.S_ISLNK, "a symbolic link", "name the file that it points to"),
    (stat.S_ISDIR, "a directory", "name a file in it"),
    (stat.S_ISFIFO, "a pipe", "pass the code on standard input with -"),
    (stat.S_ISSOCK, "a socket", "name a regular file"),
    (stat.S_ISCHR, "a device", "name a regular file"),
    (stat.S_ISBLK, "a device", "name a regular file"),
)


@dataclass(frozen=True)
class Source:
    """The text of one program: `code` is UTF-8, `name` what the caller calls it, `sha256` that of the code."""

    name: str
    code: bytes
    sha256: str


@dataclass(frozen=True)
class Shape:
    """What a program is, told from its syntax.

    `imports` are the top-level names of the modules it imports anywhere. `contract` is `signals` when it defines
    `generate_signals`, as a function or as a method of a class; else `backtesting` when it has a runnable subclass
    of `backtesting.Strategy`; else `script`. `strategies` are the names that this contract can run, each with the
    names of its parameters, or None where these cannot be told from the text. Code with a syntax error is a
    script: it may run, and will say so itself.
    """

    imports: frozenset[str]
    contract: Literal["script", "signals", "backtesting"]
    strategies: dict[str, tuple[str, ...] | None]
    syntax_error: str | None


def read_source(path: str, stdin: BinaryIO | None = None) -> Source:
    """Read the file at `path`, or standard input for `-`. Raises UsageError for what is no readable Python text."""
    if path == "-":
        return from_bytes("<stdin>", (stdin or sys.stdin.buffer).read(MAX_BYTES + 1))
    try:
        return from_bytes(path, _read_regular(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{one_line(path)}: cannot be read: {reason}; name a file of Python code") from error


def from_bytes(name: str, code: bytes) -> Source:
    """Return `code` as a Source called `name`. Raises UsageError unless it is UTF-8 text of a usable size."""
    if reason := _unusable(code):
        raise UsageError(f"{one_line(name)}: {reason}")
    return Source(name, code, hashlib.sha256(code).hexdigest())


def _read_regular(path: str) -> bytes:
    """Read a regular file that is the same file, with the same content, before and after."""
    named = os.lstat(path)
    _refuse_kind(path, named)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    before = os.fstat(descriptor)
    if _state(before) != _state(named):
        os.close(descriptor)
        raise UsageError(_changed(path))
    with open(descriptor, "rb") as file:
        code = file.read(MAX_BYTES + 1)
        after = os.fstat(descriptor)
    if _state(after) != _state(before) or len(code) != min(after.st_size, MAX_BYTES + 1):
        raise UsageError(_changed(path))
    return code


def _changed(path: str) -> str:
    return f"{one_line(path)}: changed while it was read; run it again once nothing writes to it"


def _refuse_kind(path: str, about: os.stat_result) -> None:
    for is_kind, what, mend in _KINDS:
        if is_kind(about.st_mode):
            raise UsageError(f"{one_line(path)}: is {what}, not a regular file; {mend}")


def _state(about: os.stat_result) -> tuple[int, ...]:
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def _unusable(code: bytes) -> str | None:
    """Return why these bytes are not a text of Python and what to do, none when they are."""
    if len(code) > MAX_BYTES:
        return f"is larger than {MAX_BYTES // 2**20} MB; split it"
    if b"\0" in code:
        return "is binary (it has NUL bytes); name a file of Python code"
    try:
        text = code.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte {error.start}); save it as UTF-8"
    if not text.strip():
        return "is empty; name a file of Python code"
    return _foreign_cookie(code)


def _foreign_cookie(code: bytes) -> str | None:
    """Return why the declared encoding cannot stand: with another, Python would run other text than was read."""
    lines = code.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        declared = tokenize.detect_encoding(io.BytesIO(lines).readline)[0]
        is_utf8 = codecs.lookup(declared.removesuffix("-sig")).name == "utf-8"
    except (SyntaxError, LookupError):
        is_utf8, declared = False, "an unknown encoding"
    return None if is_utf8 else f"declares {declared}; remove the coding comment, or declare utf-8"


def inspect(code: bytes) -> Shape:
    """Return the shape of a program, parsed in a child process of limited means; it is never imported or compiled.

    Raises UsageError for code that cannot be parsed within the limits.
    """
    command = [sys.executable, "-I", "-S", "-W", "ignore", str(_CHILD)]
    try:
        child = subprocess.run(
            command, input=code, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=WALL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(_beyond_limits(f"over {WALL_SECONDS} s")) from error
    if child.returncode != 0:
        ended = f"signal {-child.returncode}" if child.returncode < 0 else "memory or nesting"
        raise UsageError(_beyond_limits(ended))
    found = json.loads(child.stdout)
    return Shape(
        imports=frozenset(found["imports"]),
        contract=found["contract"],
        strategies={name: _frozen(names) for name, names in found["strategies"].items()},
        syntax_error=found["syntax_error"],
    )


def _frozen(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


def _beyond_limits(ended: str) -> str:
    return f"the code cannot be parsed within limits ({ended}); make it smaller, or nest it less deeply"
