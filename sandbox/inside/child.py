"""What the warden does to itself and to its child before the candidate's first instruction.

Order in the child, each step closing what the next could be undone with: own session, only its own descriptors,
first in line for the out-of-memory killer and last for the processor, resource limits, Landlock (files), seccomp
(system calls). A step that fails means that nothing runs. Landlock is missing on kernels before 5.13 and under
gVisor, and user notification of seccomp under gVisor; both only add to the container.
"""

from __future__ import annotations

import _socket
import array
import ctypes
import errno
import fcntl
import os
import platform
import resource
import signal
import struct
from dataclasses import dataclass

WRITABLE = ("/out", "/tmp", "/dev/shm")
JOB = "/job"

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_DUMPABLE = 4


# System call numbers, from the kernel's own tables (arch/x86/entry/syscalls/syscall_64.tbl and
# include/uapi/asm-generic/unistd.h).
@dataclass(frozen=True)
class _Calls:
    """The numbers of one architecture.

    `denied` are the ways into another process (ptrace, process_vm_readv and _writev, kcmp, pidfd_open, pidfd_getfd,
    process_madvise) and into the kernel (unshare, setns, mount, umount2, pivot_root, chroot, bpf, io_uring_setup,
    userfaultfd, perf_event_open, keyctl, add_key, request_key). The container's own profile denies the second kind
    too, but gVisor may not apply it. `signal` send signals (kill, tkill, tgkill, rt_sigqueueinfo,
    rt_tgsigqueueinfo); `own` may be used on the caller itself only, as argument 0 (prlimit64, sched_setaffinity).
    """

    arch: int
    seccomp: int
    socket: int
    setpriority: int
    denied: tuple[int, ...]
    signal: tuple[int, ...]
    own: tuple[int, ...]


_NUMBERS = {
    "x86_64": _Calls(
        arch=0xC000003E,
        seccomp=317,
        socket=41,
        setpriority=141,
        denied=(101, 310, 311, 312, 434, 438, 440, 272, 308, 165, 166, 155, 161, 321, 425, 323, 298, 250, 248, 249),
        signal=(62, 200, 234, 129, 297),
        own=(302, 203),
    ),
    "aarch64": _Calls(
        arch=0xC00000B7,
        seccomp=277,
        socket=198,
        setpriority=140,
        denied=(117, 270, 271, 272, 434, 438, 440, 97, 268, 40, 39, 41, 51, 280, 425, 282, 241, 219, 217, 218),
        signal=(129, 130, 131, 138, 240),
        own=(261, 122),
    ),
}


class Unsealed(Exception):
    """The child could not be sealed; the candidate was not started."""


@dataclass
class Streams:
    """The parent's ends: where the child's output and its refused system calls arrive."""

    pid: int
    stdout: int
    stderr: int
    result: int
    listener: int | None
    gate: _socket.socket

    def go(self) -> None:
        """Let the candidate begin."""
        self.gate.send(b"g")
        self.gate.close()


def close_to_others() -> None:
    """Make this process non-dumpable: no other process of its uid may read its memory or descriptors."""
    _check(_libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def describe() -> dict[str, object]:
    """Say what the container looks like from inside, for the runner to compare with what it asked for."""
    with open("/proc/self/status") as file:
        status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    return {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "capabilities": sorted({status[name].strip("0") or "0" for name in ("CapPrm", "CapEff", "CapBnd")}),
        "no_new_privs": status.get("NoNewPrivs", "").strip(),
        "seccomp": status.get("Seccomp", "").strip(),
        "interfaces": _interfaces(),
        "root_read_only": _is_read_only("/"),
        "landlock": landlock_version(),
        "python": platform.python_version(),
    }


def place(name: str, code: bytes) -> str:
    """Write the candidate's file where it can be read but not written, and return its path."""
    path = os.path.join(JOB, os.path.basename(name))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    with open(fd, "wb") as file:
        file.write(code)
    os.chmod(JOB, 0o555)
    return path


def fork(limits: dict[str, float], has_result: bool) -> Streams | None:
    """Fork the child and seal it. Returns None in the child once the parent lets it go.

    Raises Unsealed in the parent when a step failed in the child.
    """
    out, err, result = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    pid = os.fork()
    if pid == 0:
        ours.close()
        _become_child(limits, (out[1], err[1], *([result[1]] if has_result else [])), theirs)
        return None
    theirs.close()
    for _, write_end in (out, err, result):
        os.close(write_end)
    for read_end in (out[0], err[0], result[0]):
        # A candidate can open its own pipe for reading and take back what the warden was told is there.
        os.set_blocking(read_end, False)
    message, ancillary, _, _ = ours.recvmsg(4096, _socket.CMSG_SPACE(4))
    if message[:1] != b"r":
        raise Unsealed(message.decode(errors="replace") or "the child died while it was being sealed")
    listener = array.array("i", ancillary[0][2])[0] if ancillary else None
    return Streams(pid, out[0], err[0], result[0], listener, ours)


def refuse_next(listener: int) -> int:
    """Answer one system call that waits at the seccomp listener with EPERM; return how many were answered."""
    notification = bytearray(80)
    try:
        fcntl.ioctl(listener, 0xC0502100, notification)  # SECCOMP_IOCTL_NOTIF_RECV
        (call,) = struct.unpack_from("=Q", notification)
        fcntl.ioctl(listener, 0xC0182101, struct.pack("=QqiI", call, 0, -errno.EPERM, 0))  # SECCOMP_IOCTL_NOTIF_SEND
    except OSError:
        return 0  # The caller was killed while it waited.
    return 1


def _become_child(limits: dict[str, float], pipes: tuple[int, ...], gate: _socket.socket) -> None:
    try:
        _reset_signals()
        os.setsid()
        _keep_only(pipes, gate.fileno())
        _libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        _die_first()
        os.nice(19)  # The warden must get its turn, however many processes the candidate has.
        _limit_resources(limits)
        _restrict_files()
        listener = _filter_calls()
        fds = [] if listener is None else [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [listener]))]
        gate.sendmsg([b"r"], fds)
    except BaseException as error:
        gate.send(f"e{type(error).__name__}: {error}".encode())
        os._exit(1)
    if listener is not None:
        os.close(listener)
    if gate.recv(1) != b"g":
        os._exit(1)
    gate.close()


RESULT_FD = 3


def _keep_only(pipes: tuple[int, ...], gate: int) -> None:
    """Leave the child /dev/null and its own pipes (stdout, stderr and, with a harness, the result), and the gate."""
    null = os.open("/dev/null", os.O_RDONLY)
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in (null, *pipes)]
    gate_copy = fcntl.fcntl(gate, fcntl.F_DUPFD, 100)
    for target, fd in enumerate(copies):
        os.dup2(fd, target, inheritable=target != RESULT_FD)
    if gate < len(copies):
        raise OSError("the gate would be overwritten")
    os.dup2(gate_copy, gate, inheritable=False)
    for fd in range(len(copies), os.sysconf("SC_OPEN_MAX")):
        if fd != gate:
            try:
                os.close(fd)
            except OSError:
                pass


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _die_first() -> None:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _limit_resources(limits: dict[str, float]) -> None:
    # The warden ends a run at its CPU limit by the cgroup's clock; this stands behind it where there is none.
    seconds = int(limits["cpu_time"]) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _is_read_only(folder: str) -> bool:
    """Find out by trying: not every kernel says it when asked for the file system's flags (gVisor does not)."""
    try:
        os.mkdir(os.path.join(folder, ".probe"))
    except OSError as error:
        return error.errno == errno.EROFS
    return False


def _interfaces() -> list[str]:
    """List the interfaces but those that are down: some kernels put idle tunnels into every namespace."""
    with open("/proc/net/dev") as file:
        names = [line.split(":")[0].strip() for line in file.read().splitlines()[2:]]
    return [name for name in names if name == "lo" or _may_be_up(name)]


def _may_be_up(interface: str) -> bool:
    try:
        with open(f"/sys/class/net/{interface}/flags") as file:
            return bool(int(file.read(), 16) & 1)
    except (OSError, ValueError):
        return True


# Landlock: files. Numbers from include/uapi/linux/landlock.h.

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_EXECUTE, _WRITE, _READ, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_DEVICES = 1 << 6 | 1 << 11
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_SCOPES = 0b11  # abstract unix sockets, signals

_LOOK = _READ | _READ_DIR
_PROC_FILES = ("cpuinfo", "meminfo", "stat", "uptime", "loadavg", "version", "filesystems")
_PROC_OWN = ("status", "stat", "statm", "maps", "cmdline", "comm", "limits", "io", "fd")


def landlock_version() -> int:
    """Return the kernel's Landlock ABI, 0 when there is none."""
    return max(0, int(_libc.syscall(_CREATE, None, 0, 1)))


def _restrict_files() -> None:
    """Let the child see the interpreter and its input, write where it may write, and nothing else.

    Among what it no longer sees is /proc/*/mountinfo, which tells where the engine keeps its files on the host.
    """
    version = landlock_version()
    if version == 0:
        return
    handled = _handled_by(version)
    attributes = struct.pack("=QQQ", handled, 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 8
    ruleset = _check(_libc.syscall(_CREATE, attributes, size, 0), "landlock_create_ruleset")
    everything = handled & ~_EXECUTE & ~_MAKE_DEVICES
    allowed = dict.fromkeys(WRITABLE, everything)
    allowed |= dict.fromkeys(("/usr", "/lib", "/lib64", "/bin", "/etc"), _EXECUTE | _LOOK)
    allowed |= dict.fromkeys((JOB, "/sys/devices/system/cpu"), _LOOK)
    allowed |= {f"/dev/{name}": _READ | _WRITE for name in ("null", "zero", "full", "random", "urandom")}
    allowed |= {f"/proc/{name}": _READ for name in _PROC_FILES}
    allowed |= {f"/proc/{os.getpid()}/{name}": _LOOK for name in _PROC_OWN}
    for path, rights in allowed.items():
        _allow(ruleset, path, rights & handled)
    _check(_libc.syscall(_RESTRICT, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def _handled_by(version: int) -> int:
    bits = 13 + (version >= 2) + (version >= 3)
    return (1 << bits) - 1 | (_IOCTL if version >= 5 else 0)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        rights &= _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
    _check(_libc.syscall(_ADD, ruleset, 1, struct.pack("=Qi", rights, fd), 0), f"landlock_add_rule {path}")
    os.close(fd)


# seccomp: system calls. Numbers from include/uapi/linux/{seccomp,filter,bpf_common}.h.

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_KILL, _ERRNO, _NOTIFY, _ALLOW = 0x80000000, 0x00050000, 0x7FC00000, 0x7FFF0000
_NR, _ARCH, _ARGUMENTS = 0, 4, 16
_NEW_LISTENER = 1 << 3


def _filter_calls() -> int | None:
    """Install the child's own filter; return the descriptor at which refused sockets wait, if the kernel has it."""
    listener = _install(_NOTIFY, _NEW_LISTENER)
    if listener is None:
        _check(0 if _install(_ERRNO | errno.EPERM, 0) is not None else -1, "seccomp")
    return listener


def _install(refusal: int, flags: int) -> int | None:
    numbers = _NUMBERS[platform.machine()]
    program = _program(numbers, refusal)
    buffer = ctypes.create_string_buffer(program, len(program))
    descriptor = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    result = int(_libc.syscall(numbers.seccomp, 1, flags, descriptor))  # SECCOMP_SET_MODE_FILTER
    return result if result >= 0 else None


def _program(numbers: _Calls, refusal: int) -> bytes:
    """Assemble the filter: wrong architecture dies, no sockets, no reaching into other processes or the warden."""
    one = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, numbers.arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NR),
        (_EQUAL, 0, 1, numbers.socket),
        (_RETURN, 0, 0, refusal),
    ]
    for number in numbers.denied:
        one += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    refuse, allow = (_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ALLOW)
    for number in numbers.signal:  # not to PID 1, the warden
        one += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, _ARGUMENTS), (_EQUAL, 0, 1, 1), refuse, allow]
    for number in numbers.own:  # 0 is the caller: what the warden may do and when it runs is not a candidate's affair
        one += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, _ARGUMENTS), (_EQUAL, 1, 0, 0), refuse, allow]
    one += [(_EQUAL, 0, 6, numbers.setpriority), (_LOAD, 0, 0, _ARGUMENTS), (_EQUAL, 0, 2, 0)]
    one += [(_LOAD, 0, 0, _ARGUMENTS + 8), (_EQUAL, 1, 0, 0), refuse, allow]
    one += [allow]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in one)
