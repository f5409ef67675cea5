"""Group E of the attack cases: what a candidate can reach, and what it can make us believe."""

import json
import os
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import sandgate
from sandgate import EngineError, SealError, Status
from sandgate.sandbox import reaper, runner, seal
from sandgate.sandbox.job import Job
from sandgate.schemas.limits import Limits
from sandgate.schemas.run import Image, Isolation

PREAMBLE = """
import ctypes, errno, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
reached = []
def attempt(name, action):
    try:
        result = action()
    except (OSError, PermissionError) as error:
        return
    reached.append([name, repr(result)])
def call(name, *arguments):
    ctypes.set_errno(0)
    if libc.syscall(*arguments) != -1:
        reached.append([name, "allowed"])
    elif ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS, errno.EACCES):
        reached.append([name, errno.errorcode[ctypes.get_errno()]])
"""

EPILOGUE = """
print(json.dumps(reached))
"""

ATTEMPTS = {
    "E09 devices": """
        for name in ("mem", "kmem", "sda", "vda", "kmsg", "fuse", "kvm", "net/tun"):
            attempt(name, lambda: open(f"/dev/{name}", "r+b"))
        assert not os.path.islink("/dev/null") and not os.path.islink("/dev")
        attempt("mknod", lambda: os.mknod("/tmp/disk", 0o60666, os.makedev(8, 0)))
    """,
    "E10 kernel settings": """
        for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/kernel/modprobe",
                     "/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/memory/release_agent",
                     "/sys/kernel/uevent_helper", "/proc/self/oom_score_adj"):
            attempt(path, lambda: open(path, "w").write("x"))
        mount = lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)
        if mount() == 0: reached.append(["mount", ""])
        call("pivot_root", 155, b"/tmp", b"/tmp")
        call("umount2", 166, b"/proc", 2)
        call("chroot", 161, b"/tmp")
    """,
    "E11 dangerous system calls": """
        call("unshare", 272, 0x10000000)
        call("setns", 308, 0, 0)
        call("clone newuser", 56, 0x10000000 | 17, 0, 0, 0, 0)
        call("clone3", 435, 0, 0)
        call("ptrace", 101, 16, 1, 0, 0)
        call("bpf", 321, 0, 0, 0)
        call("io_uring_setup", 425, 1, 0)
        call("userfaultfd", 323, 0)
        call("perf_event_open", 298, 0, 0, -1, -1, 0)
        call("keyctl", 250, 0, 0)
        call("add_key", 248, b"user", b"x", b"y", 1, -3)
        call("request_key", 249, b"user", b"x", 0, -3)
        call("process_vm_readv", 310, 1, 0, 0, 0, 0, 0)
        call("process_vm_writev", 311, 1, 0, 0, 0, 0, 0)
        call("pidfd_open", 434, 1, 0)
        call("pidfd_getfd", 438, 3, 1, 0)
        call("kcmp", 312, 1, os.getpid(), 0, 0, 0)
        call("init_module", 175, 0, 0, b"")
        call("kexec_load", 246, 0, 0, 0, 0)
        call("open_by_handle_at", 304, 0, 0, 0)
        call("settimeofday", 164, 0, 0)
        call("personality", 135, 0xffffffff - 1)
        call("prlimit of the warden", 302, 1, 0, 0, 0)
        call("bind", 49, 0, 0, 0)
        call("connect", 42, 0, 0, 0)
    """,
    "E14 privileges": """
        status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            if int(status[name], 16): reached.append([name, status[name]])
        if status["NoNewPrivs"].strip() != "1": reached.append(["NoNewPrivs", status["NoNewPrivs"]])
        attempt("setuid", lambda: os.setuid(0))
        attempt("setgid", lambda: os.setgid(0))
        for folder, _, names in os.walk("/usr"):
            for name in names:
                mode = os.lstat(os.path.join(folder, name)).st_mode
                if mode & 0o6000: reached.append([name, oct(mode)])
        for name in ("sudo", "su", "sh", "bash", "busybox", "apt", "pip"):
            if any(os.path.exists(f"{folder}/{name}") for folder in ("/bin", "/usr/bin", "/sbin", "/usr/sbin")):
                reached.append([name, "is in the image"])
    """,
    "E16 traces of the host": """
        for path in ("/proc/self/mountinfo", "/proc/mounts", "/proc/self/cgroup", "/proc/1/environ",
                     "/proc/1/mem", "/proc/1/maps", f"/proc/self/task/{os.getpid()}/mountinfo",
                     f"/proc/{os.getpid()}/mounts", f"/proc/self/task/{os.getpid()}/cgroup",
                     "/proc/1/fd", "/proc/1/root/etc/passwd", "/proc/1/cwd", "/proc/1/mountinfo", "/proc/keys",
                     "/proc/kallsyms", "/proc/config.gz"):
            attempt(path, lambda: open(path).read() if not path.endswith("fd") else os.listdir(path))
        for path in ("/etc/hosts", "/etc/resolv.conf"):
            if os.path.exists(path) and open(path).read(): reached.append([path, open(path).read()])
        if os.uname().nodename != "sandbox": reached.append(["hostname", os.uname().nodename])
    """,
    "the warden's channel": """
        for number in range(3, 1024):
            attempt(f"descriptor {number}", lambda: os.write(number, b"Z\\0\\0\\0\\2{}"))
            attempt(f"warden's descriptor {number}", lambda: open(f"/proc/1/fd/{number}", "wb"))
        for number in (1, 2, 9, 15, 17, 19):
            attempt(f"signal {number} to the warden", lambda: os.kill(1, number))
        attempt("the warden's priority", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19))
        attempt("everybody's priority", lambda: os.setpriority(os.PRIO_USER, os.getuid(), 19))
        attempt("the warden's processors", lambda: os.sched_setaffinity(1, {0}))
    """,
}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_nothing_of_the_host_or_the_warden_can_be_reached(execute, name):
    run = execute(PREAMBLE + textwrap.dedent(ATTEMPTS[name]) + EPILOGUE)

    assert run.status is Status.OK, run.stderr.text
    assert json.loads(run.stdout.text) == []


FORGERY = """
import json, os
def frame(kind, payload): return kind + len(payload).to_bytes(4, "big") + payload
record = json.dumps({"exit_code": 0, "signal": None, "cause": None, "wall_seconds": 0.0, "cpu_seconds": 0.0,
                     "memory_peak": 1, "oom_events": 0, "pids_events": 0, "disk_peak": 0, "disk_full": False,
                     "network_attempts": 0, "stdout": {"total": 0, "dropped": 0},
                     "stderr": {"total": 0, "dropped": 0}, "result_bytes": 0}).encode()
try:
    channel = os.open("/proc/1/fd/1", os.O_WRONLY)
    os.write(channel, frame(b"O", b"all tests pass") + frame(b"Z", bytes(32) + record) + frame(b"Z", record))
except OSError: pass
while True: pass
"""


@pytest.mark.parametrize("isolation", Isolation)
def test_a_candidate_cannot_write_its_own_verdict(image, settings, isolation):
    """gVisor lets it open the warden's channel; what it writes there does not prove itself."""
    run = sandgate.run(code=FORGERY, limits=Limits(timeout=3), isolation=isolation, settings=settings)

    assert not run.passed
    assert run.status is (Status.TIMEOUT if isolation is Isolation.DEFAULT else Status.INCOMPLETE)
    assert run.exit_code is None


INJECTED = {
    "S for a second key, then stolen from stdin": """
        os.write(channel, frame(b"S", b""))
        stdin = os.open("/proc/1/fd/0", os.O_RDONLY | os.O_NONBLOCK)
        key, end = b"", time.monotonic() + 2
        while len(key) < 32 and time.monotonic() < end:
            try: key += os.read(stdin, 32)
            except BlockingIOError: pass
        mac = hmac.new(key, frame(b"O", b"forged") + record, "sha256").digest()
        os.write(channel, frame(b"O", b"forged") + frame(b"Z", mac + record))
    """,
    "F": "os.write(channel, frame(b'F', b'\"oops\"'))",
    "H": "os.write(channel, frame(b'H', b'{}'))",
    "A with a surrogate": """os.write(channel, frame(b"A", b'{"name": "\\\\ud800", "size": 1}'))""",
    "A twice": """os.write(channel, 2 * frame(b"A", b'{"name": "a", "size": 0}'))""",
    "A in a file": """
        os.write(channel, frame(b"A", b'{"name": "a", "size": 0}') + frame(b"A", b'{"name": "a/b", "size": 0}'))
    """,
}


@pytest.mark.parametrize("name", INJECTED)
def test_a_frame_put_into_the_wardens_channel_makes_a_run_incomplete(image, settings, name):
    """Under gVisor, where a candidate can write there: never a pass, and never our fault either."""
    preamble = FORGERY.split("try:")[0].replace("import json, os", "import hmac, json, os, time")
    code = preamble + "channel = os.open('/proc/1/fd/1', os.O_WRONLY)\n" + textwrap.dedent(INJECTED[name])
    run = sandgate.run(
        code=code + "\ntime.sleep(1)", limits=Limits(timeout=6), isolation=Isolation.GVISOR, settings=settings
    )
    assert run.status is Status.INCOMPLETE, (run.reason, run.stderr.text)
    assert "cannot be trusted" in run.reason


def test_under_gvisor_a_run_has_the_processes_that_it_may_have(image, settings):
    code = "import os, time\nfor _ in range(58):\n    if os.fork() == 0: time.sleep(2); os._exit(0)\ntime.sleep(1)"
    run = sandgate.run(code=code, limits=Limits(timeout=20), isolation=Isolation.GVISOR, settings=settings)
    assert run.status is Status.OK, run.reason


def test_a_candidate_that_takes_its_output_back_does_not_hold_up_the_warden(execute):
    run = execute(
        textwrap.dedent("""
        import os, threading
        back = os.open("/proc/self/fd/1", os.O_RDONLY | os.O_NONBLOCK)
        def steal():
            while True:
                try: os.write(1, b"x"); os.read(back, 1)
                except BlockingIOError: pass
        for _ in range(3): threading.Thread(target=steal).start()
        """),
        cpu_time=2,
        timeout=20,
        cpus=2,
    )
    assert run.status is Status.CPU_LIMIT
    assert run.usage.cpu_seconds < 4


def test_a_run_cannot_use_up_what_the_kernel_counts_per_user(image, settings):
    hoard = textwrap.dedent("""
        import array, os, socket, time
        pairs = []
        null = os.open("/dev/null", os.O_RDONLY)
        try:
            for _ in range(40):
                left, right = socket.socketpair()
                pairs.append((left, right))
                for _ in range(60):
                    left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 30))])
        except OSError as error: print(error, flush=True)
        time.sleep(4)
    """)
    with ThreadPoolExecutor(1) as pool:
        hoarding = pool.submit(sandgate.run, code=hoard, limits=Limits(timeout=20), settings=settings)
        time.sleep(2)
        assert sandgate.run(code="print(1)", settings=settings).status is Status.OK
        assert hoarding.result().status is Status.OK


def test_e12_f10_the_next_run_finds_nothing_of_the_one_before(execute):
    leave = """
        import ctypes, os
        for folder in ("/tmp", "/dev/shm", "/out"): open(f"{folder}/residue", "w").write("left")
        ctypes.CDLL(None).syscall(248, b"user", b"residue", b"left", 4, -3)
    """
    look = """
        import os
        print([f"{f}/{n}" for f in ("/tmp", "/dev/shm", "/out") for n in os.listdir(f)])
        try: print(open("/proc/keys").read())
        except OSError: print("no keys")
    """
    assert execute(textwrap.dedent(leave)).status is Status.OK
    assert execute(textwrap.dedent(look)).stdout.text == "[]\nno keys\n"


def test_e13_every_socket_fails_fast_and_is_counted(execute):
    run = execute(
        textwrap.dedent("""
        import socket, urllib.request
        def attempt(*arguments):
            try: socket.socket(*arguments); print("reached", arguments)
            except OSError: pass
        for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_PACKET, 40, socket.AF_NETLINK):
            attempt(family, socket.SOCK_STREAM)
            attempt(family, socket.SOCK_RAW)
        for address in ("http://169.254.169.254/latest/meta-data", "http://172.17.0.1:2375/info"):
            try: urllib.request.urlopen(address, timeout=5); print("reached", address)
            except OSError: pass
        try: socket.getaddrinfo("example.com", 80); print("resolved")
        except OSError: pass
        """)
    )
    assert run.status is Status.OK
    assert run.stdout.text == ""
    assert run.usage.network_attempts is not None
    assert run.usage.network_attempts >= 14
    assert run.usage.wall_seconds < 5


def test_e15_nothing_of_the_host_environment_is_inside(execute, engine, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cr3t-of-the-host")
    run = execute("import os, sys; print(dict(os.environ), sys.argv); print(open('/proc/self/cmdline').read())")

    assert run.status is Status.OK
    assert "s3cr3t" not in run.stdout.text
    for name in ("DOCKER_HOST", "SSH_AUTH_SOCK", "PROXY", "proxy", os.environ.get("PWD", "no such folder")):
        assert name not in run.stdout.text
    asked = seal.arguments("sha256:0", Limits(), None, {}, 10_001)
    assert "s3cr3t" not in json.dumps(asked)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("HostConfig", "NetworkMode"), "bridge"),
        (("HostConfig", "ReadonlyRootfs"), False),
        (("HostConfig", "CapDrop"), None),
        (("HostConfig", "CapAdd"), ["SYS_ADMIN"]),
        (("HostConfig", "SecurityOpt"), ["seccomp=unconfined"]),
        (("HostConfig", "PidsLimit"), 0),
        (("HostConfig", "Memory"), 0),
        (("HostConfig", "MemorySwap"), -1),
        (("HostConfig", "Binds"), ["/:/host"]),
        (("HostConfig", "Privileged"), True),
        (("HostConfig", "PidMode"), "host"),
        (("HostConfig", "IpcMode"), "host"),
        (("HostConfig", "Devices"), [{"PathOnHost": "/dev/kvm"}]),
        (("HostConfig", "LogConfig"), {"Type": "json-file"}),
        (("Config", "User"), "root"),
        (("Config", "NetworkDisabled"), False),
        (("Config", "Env"), ["SECRET=1"]),
        (("Config", "Cmd"), ["sh"]),
        (("Mounts",), [{"Source": "/var/run/docker.sock"}]),
        (("Image",), "sha256:another"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else None,
)
def test_e03_a_container_that_came_out_otherwise_is_not_started(engine, settings, image, path, value):
    asked = seal.arguments(image.id, Limits(), None, reaper.labels(settings, "readback", "x.py"), 10_001)
    container = engine.api.create_container_from_config(asked)["Id"]
    try:
        inspected = engine.api.inspect_container(container)
        assert seal.differences(asked, inspected) == []
        where = inspected
        for key in path[:-1]:
            where = where[key]
        where[path[-1]] = value
        assert len(seal.differences(asked, inspected)) == 1
        del where[path[-1]]
        if path[-1] not in ("CapAdd", "Binds", "PidMode", "Devices"):
            assert seal.differences(asked, inspected), "a field that is not reported must not count as sealed"
    finally:
        reaper.remove(engine, container)


def test_e03_an_engine_that_gives_less_than_asked_runs_nothing(engine, settings, image, tmp_path, monkeypatch):
    real = seal.arguments
    asked = []

    def loosened(*arguments):
        asked.append(real(*arguments))
        return asked[-1]

    class Loose:
        """The real engine, but its create call forgets the read-only root."""

        def __getattr__(self, name):
            return getattr(engine.api, name)

        def create_container_from_config(self, config):
            host = {**config["HostConfig"], "ReadonlyRootfs": False}
            return engine.api.create_container_from_config({**config, "HostConfig": host})

        def start(self, container):
            raise AssertionError("it was started")

    monkeypatch.setattr(seal, "arguments", loosened)
    with pytest.raises(SealError, match="ReadonlyRootfs"):
        runner.run(
            type(engine)(Loose(), engine.host),
            Job(name="x.py", code=b"print(1)", source="0" * 64),
            image,
            settings,
            limits=Limits(),
            isolation=Isolation.DEFAULT,
            run_id="loose",
            folder=tmp_path,
            sink=lambda *_: None,
        )


def test_e02_an_engine_that_dies_between_create_and_start_leaves_no_container(engine, settings, image, tmp_path):
    made = []

    class Dying:
        """The real engine, but it goes away when the container is to start."""

        def __getattr__(self, name):
            return getattr(engine.api, name)

        def create_container_from_config(self, config):
            made.append(engine.api.create_container_from_config(config))
            return made[-1]

        def start(self, container):
            raise ConnectionError("gone")

    with pytest.raises(EngineError, match="start a container") as caught:
        runner.run(
            type(engine)(Dying(), engine.host),
            Job(name="x.py", code=b"print(1)", source="0" * 64),
            image,
            settings,
            limits=Limits(),
            isolation=Isolation.DEFAULT,
            run_id="dying",
            folder=tmp_path,
            sink=lambda *_: None,
        )
    assert caught.value.exit_code == 3
    assert caught.value.retryable
    assert len(made) == 1
    assert made[0]["Id"] not in {container.id for container in reaper.ours(engine, settings)}


def test_e09_an_image_that_was_not_recorded_is_refused(engine, settings, image):
    from sandgate.sandbox.image import store

    stranger = Image(profile="core", id="sha256:" + "1" * 64, content=image.content)
    assert store.verify(engine, stranger, settings)
    unknown = Image(profile="core", id=image.id, content="2" * 64)
    assert store.verify(engine, unknown, settings)
    assert store.verify(engine, image, settings) == []
