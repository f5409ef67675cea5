"""The way out of the container: frames, what is kept of the output, and the proof that all of it is the warden's."""

from __future__ import annotations

import hmac
import json
import os
import select


class Channel:
    """The way out. Never blocks the watch: what the reader does not take yet waits in `waiting`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.waiting = bytearray()
        self.proof: hmac.HMAC | None = None
        os.set_blocking(fd, False)

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Queue one frame and write what fits."""
        frame = kind + len(payload).to_bytes(4, "big") + payload
        if self.proof is not None:
            self.proof.update(frame)
        self.waiting += frame
        self.push()

    def prove_with(self, key: bytes) -> None:
        """Count every frame from now on into a MAC."""
        self.proof = hmac.new(key, digestmod="sha256")

    def finish(self, record: object) -> None:
        """Send the completion record with the proof that all frames are ours, and wait until it is taken."""
        text = json.dumps(record).encode()
        assert self.proof is not None
        self.proof.update(text)
        self.send(b"Z", self.proof.digest() + text)
        self.flush()

    def send_json(self, kind: bytes, value: object) -> None:
        """Queue one frame of JSON."""
        self.send(kind, json.dumps(value).encode())

    def push(self) -> None:
        """Write what the reader takes now."""
        try:
            while self.waiting:
                del self.waiting[: os.write(self.fd, self.waiting[:65536])]
        except BlockingIOError:
            pass

    def flush(self, below: int = 0) -> None:
        """Wait until at most `below` bytes are left. Only used when no candidate process is alive."""
        while len(self.waiting) > below:
            select.select([], [self.fd], [])
            self.push()


class Capture:
    """One output stream: the first half of what may be kept goes out live, of the rest the last half is kept."""

    def __init__(self, channel: Channel, kinds: bytes, limit: int) -> None:
        self.channel = channel
        self.head_kind, self.tail_kind = kinds[:1], kinds[1:]
        self.head_left = limit - limit // 2
        self.tail_limit = limit // 2
        self.tail = bytearray()
        self.total = 0
        self.dropped = 0

    def take(self, chunk: bytes) -> None:
        """Take what the candidate wrote."""
        self.total += len(chunk)
        head, rest = chunk[: self.head_left], chunk[self.head_left :]
        if head:
            self.head_left -= len(head)
            self.channel.send(self.head_kind, head)
        self.tail += rest
        if len(self.tail) > 2 * self.tail_limit + 65536:
            self._trim()

    def finish(self) -> dict[str, int]:
        """Send the tail; return how much was written and how much of it is missing."""
        self._trim()
        for start in range(0, len(self.tail), 65536):
            self.channel.send(self.tail_kind, bytes(self.tail[start : start + 65536]))
        return {"total": self.total, "dropped": self.dropped}

    def _trim(self) -> None:
        excess = max(0, len(self.tail) - self.tail_limit)
        del self.tail[:excess]
        self.dropped += excess


class Result:
    """The harness's result pipe, forwarded up to a limit; beyond it the result is void."""

    def __init__(self, channel: Channel, limit: int) -> None:
        self.channel = channel
        self.limit = limit
        self.total = 0

    def take(self, chunk: bytes) -> None:
        """Forward a piece of the result."""
        self.total += len(chunk)
        if self.total <= self.limit:
            self.channel.send(b"R", chunk)
