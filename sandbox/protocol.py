"""Both directions of the warden's channel, seen from the host: a job out, frames in. See `inside/warden.py`."""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Any

STDOUT_STREAM = 1
MAX_FRAME = 8 * 1024 * 1024
RECORD = "Z"
_PROOF = 32
_HEADER = 5
_ENGINE_HEADER = 8
_MAX_COMPLAINT = 16 * 1024


class ChannelBroken(Exception):
    """What came through the channel is not what a warden sends: the run's record cannot be trusted."""


class ConnectionLost(Exception):
    """The connection to the engine broke: nothing is said of the candidate."""


class DeadlinePassed(Exception):
    """Our own timer ran out while waiting for the next frame."""


def encoded_job(header: dict[str, Any], code: bytes, bars: bytes) -> bytes:
    """Return the bytes that tell a warden what to run."""
    text = json.dumps({**header, "code_size": len(code), "bars_size": len(bars)}).encode()
    return len(text).to_bytes(4, "big") + text + code + bars


class Frames:
    """Frames read from an attached stream, with a deadline on the monotonic clock.

    The engine wraps what the container writes in chunks of its own (8 bytes: stream, three zeros, length); ours lie
    across them. `complaint` collects what the container wrote to standard error, which only a broken warden does.
    """

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.connection = connection
        self.deadline = deadline
        self.complaint = bytearray()
        self._proof: hmac.HMAC | None = None
        self._raw = bytearray()
        self._frames = bytearray()

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Yield kind and payload until the stream ends. Raises DeadlinePassed, ChannelBroken or ConnectionLost.

        The payload of the completion record comes without its MAC, which was checked.
        """
        while True:
            while (frame := self._next_frame()) is not None:
                yield frame
            if not self._receive():
                return

    def _next_frame(self) -> tuple[str, bytes] | None:
        if len(self._frames) < _HEADER:
            return None
        size = int.from_bytes(self._frames[1:_HEADER], "big")
        if size > MAX_FRAME:
            raise ChannelBroken(f"a frame of {size} bytes")
        end = _HEADER + size
        if len(self._frames) < end:
            return None
        frame = bytes(self._frames[:end])
        del self._frames[:end]
        kind, payload = chr(frame[0]), frame[_HEADER:]
        if kind == RECORD:
            return kind, self._proved(payload)
        if self._proof is not None:
            self._proof.update(frame)
        return kind, payload

    def send(self, data: bytes) -> None:
        """Send bytes to the warden. Raises ConnectionLost."""
        try:
            self.connection.sendall(data)
        except OSError as error:
            raise ConnectionLost(str(error)) from error

    def prove(self) -> None:
        """Give the warden a key that only it and we know, and hold every frame from now on against its MAC."""
        if self._proof is not None:
            raise ChannelBroken("a second request for a key")
        key = secrets.token_bytes(_PROOF)
        self._proof = hmac.new(key, digestmod="sha256")
        self.send(key)

    def _proved(self, payload: bytes) -> bytes:
        if self._proof is None:
            raise ChannelBroken("a completion record before anything ran")
        self._proof.update(payload[_PROOF:])
        if not hmac.compare_digest(self._proof.digest(), payload[:_PROOF]):
            raise ChannelBroken("somebody else wrote into the warden's channel")
        return payload[_PROOF:]

    def _receive(self) -> bool:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise DeadlinePassed
        self.connection.settimeout(left)
        try:
            chunk = self.connection.recv(1 << 18)
        except TimeoutError:
            raise DeadlinePassed from None
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        self._raw += chunk
        self._unwrap()
        return bool(chunk)

    def _unwrap(self) -> None:
        start = 0
        while len(self._raw) - start >= _ENGINE_HEADER:
            end = start + _ENGINE_HEADER + int.from_bytes(self._raw[start + 4 : start + _ENGINE_HEADER], "big")
            if len(self._raw) < end:
                break
            into = self._frames if self._raw[start] == STDOUT_STREAM else self.complaint
            into += self._raw[start + _ENGINE_HEADER : end]
            start = end
        del self._raw[:start]
        del self.complaint[_MAX_COMPLAINT:]
