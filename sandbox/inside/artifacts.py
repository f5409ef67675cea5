"""Sends what a run left in its output folder: regular files only, bounded in bytes, count, depth and time.

Called when no candidate process is alive, so nothing changes underneath. Opened without following links and without
blocking, a size that does not fit is refused before a byte is read (a sparse file's hole is never read).
"""

from __future__ import annotations

import os
import stat
import time

from channel import Channel

DEPTH = 16
SECONDS = 10.0
REFUSALS = 100
CHUNK = 65536


class _Collection:
    def __init__(self, channel: Channel, max_bytes: int, max_count: int) -> None:
        self.channel = channel
        self.bytes_left = max_bytes
        self.count_left = max_count
        self.refusals_left = REFUSALS
        self.deadline = time.monotonic() + SECONDS

    def folder(self, fd: int, prefix: str, depth: int) -> None:
        for name in sorted(os.listdir(fd)):
            if self.refusals_left == 0:
                return
            path = prefix + name
            try:
                mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
            except OSError as error:
                self.refuse(path, f"cannot be looked at: {error.strerror}")
                continue
            if time.monotonic() > self.deadline:
                self.refuse(path, f"collecting took longer than {SECONDS:g} s")
            elif stat.S_ISDIR(mode):
                self.subfolder(fd, name, path, depth)
            elif stat.S_ISREG(mode):
                self.file(fd, name, path)
            else:
                self.refuse(path, f"not a regular file but a {kind_of(mode)}")

    def subfolder(self, parent: int, name: str, path: str, depth: int) -> None:
        if depth == DEPTH:
            return self.refuse(path, f"folders nest deeper than {DEPTH}")
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        except OSError as error:
            return self.refuse(path, f"cannot be opened: {error.strerror}")
        try:
            return self.folder(fd, path + "/", depth + 1)
        except OSError as error:
            return self.refuse(path, f"cannot be listed: {error.strerror}")
        finally:
            os.close(fd)

    def file(self, folder: int, name: str, path: str) -> None:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except OSError as error:
            return self.refuse(path, f"cannot be opened: {error.strerror}")
        try:
            size = os.fstat(fd).st_size
            if self.count_left == 0:
                return self.refuse(path, "too many files")
            if size > self.bytes_left:
                return self.refuse(path, f"too large: {size} bytes, {self.bytes_left} left")
            self.count_left -= 1
            self.bytes_left -= size
            return self.content(fd, path, size)
        finally:
            os.close(fd)

    def content(self, fd: int, path: str, size: int) -> None:
        self.channel.send_json(b"A", {"name": path, "size": size})
        while size:
            chunk = os.read(fd, min(CHUNK, size))
            # A regular file that ends before its size cannot happen here; zeros keep the frame count right.
            chunk = chunk or bytes(min(CHUNK, size))
            self.channel.send(b"B", chunk)
            self.channel.flush(below=4 * CHUNK)
            size -= len(chunk)

    def refuse(self, path: str, reason: str) -> None:
        self.refusals_left -= 1
        if self.refusals_left == 0:
            path, reason = "", "more was refused than is listed"
        self.channel.send_json(b"X", {"name": path, "reason": reason})


def kind_of(mode: int) -> str:
    """Return the word for what is no regular file."""
    kinds = ((stat.S_ISLNK, "symbolic link"), (stat.S_ISFIFO, "FIFO"), (stat.S_ISSOCK, "socket"))
    return next((word for test, word in kinds if test(mode)), "device")


def send(channel: Channel, root: str, max_bytes: int, max_count: int) -> None:
    """Send every regular file below `root` as A and B frames, in order of name, and an X frame for what is not."""
    collection = _Collection(channel, max_bytes, max_count)
    os.chmod(root, 0o700)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        collection.folder(fd, "", 0)
    finally:
        os.close(fd)
