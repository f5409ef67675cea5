"""Frames out of an attached stream: split anywhere, cut short, forged, or silent."""

import hmac
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandgate.sandbox.protocol import MAX_FRAME, ChannelBroken, DeadlinePassed, Frames, encoded_job


def engine_chunk(payload: bytes, stream: int = 1) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


def frame(kind: bytes, payload: bytes) -> bytes:
    return kind + len(payload).to_bytes(4, "big") + payload


def frames_of(raw: bytes, sizes: int) -> list[tuple[str, bytes]]:
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as sender:
        frames = Frames(ours, time.monotonic() + 10)
        sender.submit(_send, theirs, raw, sizes)
        found = list(frames)
        assert len(frames.complaint) <= 16 * 1024
        return found


def _send(connection: socket.socket, raw: bytes, sizes: int) -> None:
    for start in range(0, len(raw), sizes):
        connection.sendall(raw[start : start + sizes])
    connection.close()


@pytest.mark.parametrize("sizes", [1, 3, 7, 64, 10_000])
def test_frames_arrive_whole_however_they_are_cut(sizes):
    stream = frame(b"H", b"{}") + frame(b"O", b"x" * 300) + frame(b"X", b"")
    raw = b"".join(engine_chunk(stream[start : start + 11]) for start in range(0, len(stream), 11))

    assert frames_of(raw, sizes) == [("H", b"{}"), ("O", b"x" * 300), ("X", b"")]


def test_what_the_container_writes_to_stderr_is_no_frame():
    raw = engine_chunk(frame(b"Z", b"forged"), stream=2) + engine_chunk(frame(b"S", b""))

    assert frames_of(raw, 100) == [("S", b"")]


def test_a_flood_on_stderr_is_cut():
    assert frames_of(engine_chunk(b"x" * 100_000, stream=2), 1 << 16) == []


def test_a_stream_that_ends_in_a_frame_gives_only_whole_ones():
    assert frames_of(engine_chunk(frame(b"S", b"") + b"Z\0\0\0\x09half"), 5) == [("S", b"")]


def test_a_frame_beyond_all_bounds_breaks_the_channel():
    with pytest.raises(ChannelBroken):
        frames_of(engine_chunk(b"O" + (MAX_FRAME + 1).to_bytes(4, "big")), 100)


def test_a_silent_stream_meets_our_deadline():
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(DeadlinePassed):
        next(iter(Frames(ours, time.monotonic() + 0.05)))


def proved(frames: list[bytes], record: bytes, key: bytes) -> bytes:
    mac = hmac.new(key, b"".join(frames) + record, "sha256").digest()
    return b"".join(engine_chunk(one) for one in [*frames, frame(b"Z", mac + record)])


def record_of(forge) -> list[tuple[str, bytes]]:
    """Play a warden that got a key and whose stream `forge` may change."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frames = Frames(ours, time.monotonic() + 10)
        frames.prove()
        key = theirs.recv(32)
        theirs.sendall(forge(key))
        theirs.shutdown(socket.SHUT_WR)
        return list(frames)


def test_a_record_that_proves_itself_is_taken():
    output = [frame(b"O", b"hello"), frame(b"E", b"")]
    found = record_of(lambda key: proved(output, b"{}", key))
    assert found == [("O", b"hello"), ("E", b""), ("Z", b"{}")]


FORGED = {
    "another key": lambda key: proved([], b"{}", bytes(32)),
    "a frame put in": lambda key: engine_chunk(frame(b"O", b"evil")) + proved([], b"{}", key),
    "a frame taken out": lambda key: proved([frame(b"O", b"x")], b"{}", key)[8 + 6 :],
    "a record of its own": lambda key: engine_chunk(frame(b"Z", b"{}")),
    "another record": lambda key: proved([], b'{"a":1}', key).replace(b'"a":1', b'"a":2'),
    "no MAC": lambda key: engine_chunk(frame(b"Z", b"")),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_record_that_does_not_is_refused(name):
    with pytest.raises(ChannelBroken):
        record_of(FORGED[name])


def test_a_record_before_anything_ran_is_refused():
    with pytest.raises(ChannelBroken):
        frames_of(engine_chunk(frame(b"Z", bytes(32) + b"{}")), 100)


def test_a_job_announces_its_parts():
    encoded = encoded_job({"name": "x.py"}, b"code", b"bars")
    size = int.from_bytes(encoded[:4], "big")

    assert encoded[4 : 4 + size] == b'{"name": "x.py", "code_size": 4, "bars_size": 4}'
    assert encoded[4 + size :] == b"codebars"
