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

from ..schemas.errors import GateError
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
        self._names: dict[tuple[str, ...], dict[str, str]] = {}
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
        try:
            self._open.write(chunk)
        except OSError as error:
            raise GateError(f"an artifact cannot be written to {self.folder}: {error.strerror}") from error
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
            with contextlib.suppress(OSError):
                (self.folder / self._open.path).unlink()
            self._open = None

    def _finish_if_whole(self) -> None:
        incoming = self._open
        if incoming is not None and incoming.left == 0:
            os.close(incoming.fd)
            self._open = None
            self.artifacts.append(incoming.artifact())

    def _free_name(self, name: str) -> tuple[tuple[str, ...], str]:
        """Return the parts of a path that nothing else has, and a note where that is not what one would expect."""
        originals = [part for part in name.split("/") if part]
        if not originals or len(originals) > _DEEPEST:
            raise ChannelBroken("an artifact with no usable name")
        parts: tuple[str, ...] = ()
        note = ""
        for original in originals:
            part, met = self._free_part(parts, original)
            if met:
                note = f"its name meets {met!r} where case or accents are folded"
            parts = (*parts, part)
        return parts, note

    def _free_part(self, folder: tuple[str, ...], original: str) -> tuple[str, str | None]:
        """Return the name for one entry of a folder, always the same, and which other entry's name it meets."""
        known = self._names.setdefault(folder, {})
        if original in known:
            return known[original], None
        taken = {_folded(part): name for name, part in known.items()}
        wanted = part = _safe_part(original)
        copy = 1
        while _folded(part) in taken:
            copy += 1
            part = f"{wanted}~{copy}"
        known[original] = part
        return part, one_line(taken[_folded(wanted)]) if copy > 1 else None

    def _create(self, parts: tuple[str, ...]) -> int:
        try:
            return self._opened(parts)
        except (FileExistsError, NotADirectoryError) as error:
            raise ChannelBroken("an artifact with a name that another one has") from error
        except OSError as error:
            raise GateError(f"an artifact cannot be written to {self.folder}: {error.strerror}") from error

    def _opened(self, parts: tuple[str, ...]) -> int:
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
        return Artifact(name=self.name, path=self.path, size=self.size, sha256=self.digest.hexdigest(), note=self.note)


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
    # A byte that was no UTF-8 arrives as a surrogate of its own range; any other surrogate is only in a forged frame.
    is_byte = "\udc80" <= char <= "\udcff"
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass"))


def _folded(part: str) -> str:
    return unicodedata.normalize("NFC", part.casefold())
