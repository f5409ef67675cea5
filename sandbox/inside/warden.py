"""PID 1 of every run: starts the candidate, watches it, buries it, and reports what it saw. Stdlib only.

Theory of operation
-------------------
The container's standard input carries one job in; its standard output is the only channel out. The warden alone
holds both. It forks one child per life; the child closes every inherited descriptor, seals itself (`child.py`) and
becomes the candidate. The candidate's output reaches the warden through pipes and is framed there, so nothing that
a candidate prints can look like a record of ours. The warden is not dumpable, so its memory and descriptors are
closed to the candidate, which runs under the same uid. Where a kernel is less strict (gVisor lets the candidate open
the warden's descriptors) the channel still proves itself: after the fork, so in memory that the candidate never had,
the warden receives a key, and the completion record carries a MAC over every frame since. A frame that somebody else
put in makes it wrong.

The warden reports facts (exit, signal, kernel counters, what it killed the run for); it judges nothing. The last
frame is the completion record: without one the run is incomplete, whatever else was seen.

Frames out: one byte of kind, four bytes of length (big-endian), payload.

    H  hello: JSON, what the container looks like from inside     before the job is read
    S  the child is sealed and waits; the answer to it is the key, 32 bytes, and then the candidate may begin
    O  o  E  e   output: head of stdout, its tail, head of stderr, its tail
    R  result of a harness, to be joined
    A  artifact: JSON name and size, then B frames with its bytes; X an entry not taken: JSON name and reason
    F  the child could not be sealed, so nothing ran: JSON text
    Z  completion record: 32 bytes of MAC over all frames after S and over what follows, then JSON

Job in: four bytes of length, a JSON header, then the code and the bars it announces.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable

INSIDE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, INSIDE)

import artifacts  # noqa: E402
import child  # noqa: E402
import counters  # noqa: E402
from channel import Capture, Channel, Result  # noqa: E402

TICK = 0.05
"""Seconds between looks at the kernel's counters."""
TERM_GRACE = 0.25
"""Seconds between asking a run to end (it prints where it was) and ending it."""
LIMIT_GRACE = 1.0
"""Seconds a run may go on after it met a limit that decides its status: enough to print its traceback."""
FLOOD = 16
"""A run that writes this many times its output limit is ended."""
DRIP, BREATHER = 4096, 0.002
"""After a read of fewer bytes than DRIP, seconds to let more gather."""
QUEUE = 256 * 1024
"""Bytes waiting for the channel above which no more output is read from the candidate."""
_ENDED_BY_RLIMIT = (-signal.SIGXCPU, -signal.SIGKILL)


class Watch:
    """One run, from the fork to the last dead process."""

    def __init__(self, channel: Channel, limits: dict[str, float], streams: child.Streams, wakeup: int) -> None:
        self.channel = channel
        self.limits = limits
        self.streams = streams
        self.wakeup = wakeup
        self.listener = streams.listener
        output = int(limits["output"])
        self.stdout = Capture(channel, b"Oo", output)
        self.stderr = Capture(channel, b"Ee", output)
        self.result = Result(channel, int(limits["result"]))
        self.takers: dict[int, Callable[[bytes], None]] = {
            streams.stdout: self.stdout.take,
            streams.stderr: self.stderr.take,
            streams.result: self.result.take,
        }
        self.started = time.monotonic()
        self.baseline = counters.read()
        self.latest = self.baseline
        self.disk = counters.Disk()
        self.network_attempts = 0
        self.is_dripping = False
        self.exit: int | None = None
        self.cause: str | None = None
        self.kill_at: float | None = None

    def until_dead(self) -> None:
        """Watch until the candidate's first process has ended, then leave none alive."""
        next_look = self.started
        while self.exit is None:
            self._wait(max(0.0, next_look - time.monotonic()))
            now = time.monotonic()
            if now >= next_look:
                self._look(now)
                next_look = now + TICK
            if self.kill_at is not None and now >= self.kill_at:
                kill_everything()
            self._reap()
        self.ended = time.monotonic()
        bury_everything()
        self._drain()
        # It may have ended between two looks: what it was by then decides.
        self._look(self.ended)

    def record(self) -> dict[str, object]:
        """Return the completion record: facts only."""
        assert self.exit is not None
        code = os.waitstatus_to_exitcode(self.exit)
        used = self.latest.since(self.baseline)
        cpu_seconds = used.cpu_seconds
        if cpu_seconds is None:
            cpu_seconds = counters.cpu_seconds_of_the_dead()
            if code in _ENDED_BY_RLIMIT and self.cause is None and cpu_seconds >= self.limits["cpu_time"]:
                self.cause = "cpu"
        return {
            "exit_code": code if code >= 0 else None,
            "signal": signal_name(-code) if code < 0 else None,
            "cause": self.cause,
            "wall_seconds": self.ended - self.started,
            "cpu_seconds": cpu_seconds,
            "memory_peak": used.memory_peak,
            "oom_events": used.oom_events,
            "pids_events": used.pids_events,
            "disk_peak": self.disk.peak,
            "disk_full": self.disk.full,
            "network_attempts": self.network_attempts if self.streams.listener is not None else None,
            "stdout": self.stdout.finish(),
            "stderr": self.stderr.finish(),
            "result_bytes": self.result.total,
        }

    def _wait(self, seconds: float) -> None:
        if self.is_dripping:
            # Left to itself the kernel would wake us for each of a million one-byte writes.
            time.sleep(BREATHER)
            self.is_dripping = False
        poll = select.poll()
        poll.register(self.wakeup, select.POLLIN)
        poll.register(0, select.POLLIN)
        if self.channel.waiting:
            poll.register(self.channel.fd, select.POLLOUT)
        if len(self.channel.waiting) < QUEUE:
            for fd in self.takers:
                poll.register(fd, select.POLLIN)
        if self.listener is not None:
            poll.register(self.listener, select.POLLIN)
        for fd, event in poll.poll(seconds * 1000):
            self._attend(fd, event)

    def _attend(self, fd: int, event: int) -> None:
        if fd == self.channel.fd:
            self.channel.push()
        elif fd == self.wakeup:
            try:
                os.read(fd, 4096)
            except BlockingIOError:
                pass
        elif fd in self.takers:
            self._read(fd)
        elif fd == self.listener:
            if event & select.POLLIN:
                self.network_attempts += child.refuse_next(fd)
            else:
                self.listener = None
        elif asker_is_gone():
            # Nobody will read the answer, and nothing may outlive those who asked for this run.
            kill_everything()
            os._exit(0)

    def _read(self, fd: int) -> None:
        try:
            chunk = os.read(fd, 65536)
        except BlockingIOError:
            return
        if chunk:
            self.is_dripping = len(chunk) < DRIP
            self.takers[fd](chunk)
        else:
            del self.takers[fd]

    def _look(self, now: float) -> None:
        self.latest = counters.read()
        self.disk.look()
        if self.cause is not None:
            return
        used = self.latest.since(self.baseline)
        if used.pids_events:
            self._end("pids", now + LIMIT_GRACE)
        elif used.oom_events:
            self._end("memory", now + LIMIT_GRACE)
        elif self._floods():
            self._end("output", now)
        elif now - self.started >= self.limits["timeout"]:
            self._ask_to_end("timeout", now)
        elif used.cpu_seconds is not None and used.cpu_seconds >= self.limits["cpu_time"]:
            self._ask_to_end("cpu", now)

    def _floods(self) -> bool:
        written = self.stdout.total + self.stderr.total
        return written > FLOOD * self.limits["output"] or self.result.total > self.result.limit

    def _end(self, cause: str, when: float) -> None:
        self.cause, self.kill_at = cause, when

    def _ask_to_end(self, cause: str, now: float) -> None:
        self._end(cause, now + TERM_GRACE)
        if self.exit is None:
            os.kill(self.streams.pid, signal.SIGTERM)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.streams.pid:
                self.exit = status

    def _drain(self) -> None:
        """Take what is left in the pipes. Every writer is dead, so each ends."""
        for fd in list(self.takers):
            while fd in self.takers and self._is_readable(fd):
                self._read(fd)
                self.channel.flush(below=QUEUE)

    @staticmethod
    def _is_readable(fd: int) -> bool:
        """Wait for the end of a pipe; the kernel may take a moment to close what the dead held."""
        return bool(select.select([fd], [], [], 1.0)[0])


def asker_is_gone() -> bool:
    """Tell whether the input has ended, which it does when the runner goes away."""
    try:
        return not os.read(0, 4096)
    except BlockingIOError:
        return False


def kill_everything() -> None:
    """Kill every process of the container but ourselves (we are PID 1 of its namespace)."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass


def bury_everything() -> None:
    """Kill and reap until no process is left, however fast they fork."""
    while True:
        kill_everything()
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def signal_name(number: int) -> str:
    """Return the name of a signal, real-time ones included."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def read_exactly(size: int) -> bytes:
    """Read `size` bytes of the job, or end quietly when whoever made this container went away."""
    chunks = []
    while size:
        chunk = os.read(0, min(size, 1 << 20))
        if not chunk:
            os._exit(0)
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def main() -> None:
    """Live one life: greet, take a job, fork, watch, report."""
    child.close_to_others()
    wakeup = watch_children()
    channel = Channel(1)
    channel.send_json(b"H", child.describe())
    channel.flush()
    header = json.loads(read_exactly(int.from_bytes(read_exactly(4), "big")))
    code = read_exactly(header["code_size"])
    bars = read_exactly(header["bars_size"])
    path = child.place(header["name"], code)
    try:
        streams = child.fork(header["limits"], has_result=header["limits"]["result"] > 0)
    except child.Unsealed as error:
        channel.send_json(b"F", str(error))
        channel.flush()
        return
    if streams is None:
        # This is the child, sealed: from here on the candidate runs, to the end of this interpreter.
        import launch

        launch.become(path, code, bars, header)
        return
    channel.send(b"S")
    channel.flush()
    channel.prove_with(read_exactly(32))
    os.set_blocking(0, False)  # Nothing more comes in; under gVisor somebody else might read what does.
    watch = Watch(channel, header["limits"], streams, wakeup)
    streams.go()
    watch.until_dead()
    record = watch.record()
    artifacts.send(channel, "/out", header["limits"]["artifacts"], header["limits"]["artifact_count"])
    channel.finish(record)


def watch_children() -> int:
    """Return a descriptor that becomes readable when a child ends. Signals that candidates may send do nothing."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    return reader


if __name__ == "__main__":
    main()
