"""Re-creates a run's artifacts on the host: fresh files of ours, mode 0600, under names that are safe everywhere.

Nothing the container says of a file is taken on trust: counts and sizes are held against the limits again, names
are rebuilt from what is harmless, folders are opened without following links, and no existing file is written to.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import unicodedata
from pathlib import Path

from ..schemas.limits import Limits
from ..schemas.run import Artifact, Refused
from ..schemas.text import one_line
from .protocol import ChannelBroken

_PLAIN = frozenset("._- +=@,()")
_LONGEST = 120
_MAX_REFUSALS = 200
_DEEPEST = 32


class Collector:
    """Takes artifact frames in order and writes them below `folder`, which must exist and be ours."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self.bytes_left = limits.artifacts
        self.count_left = limits.artifact_count
        self.artifacts: list[Artifact] = []
        self.refused: list[Refused] = []
        self._taken: dict[str, str] = {}
        self._open: _Incoming | None = None

    def begin(self, name: str, size: int) -> None:
        """Start a file of `size` bytes. Raises ChannelBroken for what a working warden never sends."""
        if self._open is not None:
            raise ChannelBroken("an artifact began before the one before it ended")
        self.count_left -= 1
        self.bytes_left -= size
        if size < 0 or self.count_left < 0 or self.bytes_left < 0:
            raise ChannelBroken("more artifacts than the limits allow")
        parts, note = self._free_name(name)
        fd = self._create(parts)
        self._open = _Incoming(fd, one_line(name), "/".join(parts), size, note)
        self._finish_if_whole()

    def take(self, chunk: bytes) -> None:
        """Append bytes to the file that was begun."""
        if self._open is None or len(chunk) > self._open.left:
            raise ChannelBroken("artifact bytes that belong to no file")
        self._open.write(chunk)
        self._finish_if_whole()

    def refuse(self, name: str, reason: str) -> None:
        """Note something that the warden did not take."""
        if len(self.refused) >= _MAX_REFUSALS:
            raise ChannelBroken("more refusals than a warden sends")
        self.refused.append(Refused(name=one_line(name), reason=one_line(reason)))

    def close(self) -> None:
        """Drop a file that never became whole."""
        if self._open is not None:
            os.close(self._open.fd)
            (self.folder / self._open.path).unlink()
            self._open = None

    def _finish_if_whole(self) -> None:
        incoming = self._open
        if incoming is not None and incoming.left == 0:
            os.close(incoming.fd)
            self._open = None
            self.artifacts.append(incoming.artifact())

    def _free_name(self, name: str) -> tuple[tuple[str, ...], str]:
        wanted = tuple(_safe_part(part) for part in name.split("/") if part)
        if not wanted or len(wanted) > _DEEPEST:
            raise ChannelBroken("an artifact with no usable name")
        parts, copy = wanted, 1
        while (key := _folded(parts)) in self._taken:
            copy += 1
            parts = (*wanted[:-1], f"{wanted[-1]}~{copy}")
        note = ""
        if copy > 1:
            note = f"its name meets {self._taken[_folded(wanted)]!r} where case or accents are folded"
        self._taken[key] = one_line(name)
        return parts, note

    def _create(self, parts: tuple[str, ...]) -> int:
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parts[:-1]:
                fd = _enter(fd, part)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(parts[-1], flags, 0o600, dir_fd=fd)
        finally:
            os.close(fd)


class _Incoming:
    def __init__(self, fd: int, name: str, path: str, size: int, note: str) -> None:
        self.fd, self.name, self.path, self.size, self.note = fd, name, path, size, note
        self.left = size
        self.digest = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        self.left -= len(chunk)
        self.digest.update(chunk)
        view = memoryview(chunk)
        while view:
            view = view[os.write(self.fd, view) :]

    def artifact(self) -> Artifact:
        return Artifact(
            name=self.name, path=self.path, size=self.size, sha256=self.digest.hexdigest(), note=self.note
        )


def _enter(parent: int, part: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(part, 0o700, dir_fd=parent)
    fd = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    os.close(parent)
    return fd


def _safe_part(part: str) -> str:
    """Return one component of a name with everything but letters, digits and plain marks percent-encoded."""
    text = unicodedata.normalize("NFC", part)
    safe = "".join(_safe_char(char) for char in text)
    if safe[0] in ".-" or safe != safe.strip():
        safe = f"%{ord(safe[0]):02X}{safe[1:]}".rstrip()
    if len(safe.encode()) > _LONGEST:
        safe = f"{safe[: _LONGEST // 4]}~{hashlib.sha256(os.fsencode(part)).hexdigest()[:16]}"
    return safe


def _safe_char(char: str) -> str:
    if char.isalnum() or char in _PLAIN:
        return char
    return "".join(f"%{byte:02X}" for byte in os.fsencode(char))


def _folded(parts: tuple[str, ...]) -> str:
    return unicodedata.normalize("NFC", "/".join(parts).casefold())
