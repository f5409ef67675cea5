"""The libraries of this machine that its interpreter and the packages load: which they are, and what is in them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
import subprocess
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ...schemas.errors import PrerequisiteError

_LIBRARY = re.compile(r"\t(?P<name>[^\s/]+) => (?P<path>/.+) \(0x[0-9a-f]+\)")
_LOADER = re.compile(r"\t(?P<path>/\S+)(?: => /.+)? \(0x[0-9a-f]+\)")
_MISSING = re.compile(r"\t(?P<name>\S+) => not found")

_OF_PACKAGES = ("libgcc_s.so.1", "libstdc++.so.6")
"""What wheels load of a distribution beside the C library's own parts."""

Found = list[tuple[str, Path]]
"""Pairs of a library's name as it is looked up and the path where it is found."""


class Seen(BaseModel):
    """The digest of libraries, and each one's size and time of change when it was taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, tuple[int, int]]
    digest: str


def linked(files: Iterable[Path]) -> tuple[Found, Path | None]:
    """Return what the loader picks for `files`, and the loader itself.

    Raises PrerequisiteError when a library is missing on this machine.
    """
    return parse_ldd(_ldd(files))


def parse_ldd(output: str) -> tuple[Found, Path | None]:
    """Read the output of ldd; what it returns and raises is what `linked` does."""
    if missing := _MISSING.search(output):
        raise PrerequisiteError(f"{missing['name']} is missing on this machine; install the package that has it")
    loader = _LOADER.search(output)
    return _found(output), Path(loader["path"]) if loader else None


def digest(programs: tuple[Path, ...], seen: Path) -> str:
    """Return a digest of `programs` and of all that they load, whether or not all of it is there.

    Reading them takes half a second, so the file `seen` keeps the digest for as long as their sizes and times last.
    """
    known = _read(seen)
    if known is None or not {str(program) for program in programs} <= set(known.files) or _stale(known):
        known = _take(programs)
        _write(seen, known)
    return known.digest


def _ldd(files: Iterable[Path]) -> str:
    environ = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    command = ["ldd", *map(str, files)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False).stdout


def _found(output: str) -> Found:
    return [(match["name"], Path(match["path"])) for match in _LIBRARY.finditer(output)]


@functools.cache
def _loaded(programs: tuple[Path, ...]) -> list[Path]:
    """Return `programs` and what they load, sorted. A machine without ldd has no libraries that could be packed."""
    found: Found = []
    with contextlib.suppress(FileNotFoundError):
        found = _found(_ldd(programs))
    folders = {path.parent for name, path in found if name == "libc.so.6"}
    beside = {folder / name for folder in folders for name in _OF_PACKAGES if (folder / name).exists()}
    return sorted({*programs, *(path for _, path in found), *beside})


def _facts(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _stale(known: Seen) -> bool:
    try:
        return any(_facts(Path(path)) != facts for path, facts in known.files.items())
    except OSError:
        return True


def _take(programs: tuple[Path, ...]) -> Seen:
    files = {str(path): _facts(path) for path in _loaded(programs)}
    total = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            total.update(f"{Path(path).name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return Seen(files=files, digest=total.hexdigest())


def _read(path: Path) -> Seen | None:
    try:
        return Seen.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _write(path: Path, seen: Seen) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_suffix(f".{secrets.token_hex(4)}.partial")
    partial.write_text(seen.model_dump_json())
    partial.replace(path)
