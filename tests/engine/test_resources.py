"""Group R of the attack cases: what a candidate can use up, and the exact status it gets for it."""

import textwrap
import time
import uuid
from pathlib import Path

import pytest

from sandgate import Status

KIB, MIB = 1024, 1024**2

CASES = {
    "R01 fork bomb": (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        {"timeout": 20},
        Status.PIDS_LIMIT,
    ),
    "R01 thread bomb": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
        {"timeout": 20},
        Status.PIDS_LIMIT,
    ),
    "R02 memory bomb": (
        "hoard = []\nwhile True: hoard.append(bytearray(10**7))",
        {"memory": 128 * MIB},
        Status.OOM,
    ),
    "R02 memory bomb in files": (
        "file = open('/tmp/x', 'wb')\nhoard = bytearray(60 * 2**20)\nwhile True: file.write(b'x' * 2**20)",
        {"memory": 64 * MIB, "disk": 64 * MIB},
        Status.OOM,
    ),
    "R04 only a child is killed": (
        """
        import os
        child = os.fork()
        if child == 0:
            hoard = []
            while True: hoard.append(bytearray(10**7))
        os.waitpid(child, 0)
        print("OK")
        """,
        {"memory": 128 * MIB},
        Status.OOM,
    ),
    "R05 busy, deaf to SIGTERM": (
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass",
        {"timeout": 1, "cpu_time": 30},
        Status.TIMEOUT,
    ),
    "R05 CPU time over many processes": (
        "import os\nfor _ in range(3): os.fork()\nwhile True: pass",
        {"timeout": 30, "cpu_time": 1},
        Status.CPU_LIMIT,
    ),
    "R11 full /out": (
        "file = open('/out/x', 'wb')\nwhile True: file.write(b'x' * 10**6)",
        {"disk": 4 * MIB},
        Status.DISK_LIMIT,
    ),
    "R11 full /tmp, error swallowed": (
        "try:\n    open('/tmp/x', 'wb').write(b'x' * 10**7)\nexcept OSError: pass",
        {"disk": 4 * MIB},
        Status.DISK_LIMIT,
    ),
    "R11 full /dev/shm": (
        "open('/dev/shm/x', 'wb').write(b'x' * 10**7)",
        {"disk": 4 * MIB},
        Status.DISK_LIMIT,
    ),
    "R11 inodes": (
        "for number in range(10**6): open(f'/tmp/{number}', 'w').close()",
        {},
        Status.DISK_LIMIT,
    ),
    "R11 a file that is reserved and not written": (
        "import os\nos.posix_fallocate(os.open('/tmp/x', os.O_RDWR | os.O_CREAT), 0, 10**7)",
        {"disk": 4 * MIB},
        Status.DISK_LIMIT,
    ),
    "R13 sleep": ("import time; time.sleep(3600)", {"timeout": 1}, Status.TIMEOUT),
    "output flood": (
        "import os\nwhile True: os.write(1, b'x' * 65536)",
        {"output": 64 * KIB, "timeout": 20},
        Status.OUTPUT_LIMIT,
    ),
    "exit code 137": ("import sys; sys.exit(137)", {}, Status.CRASHED),
    "killed by itself": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", {}, Status.CRASHED),
    "SIGXCPU from itself": ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", {}, Status.CRASHED),
    "uncaught exception": ("raise RuntimeError('no')", {}, Status.CRASHED),
    "syntax error": ("def (", {}, Status.CRASHED),
    "plain success": ("print('fine')", {}, Status.OK),
}


@pytest.mark.parametrize("name", CASES)
def test_status_is_exact(execute, name):
    code, limits, status = CASES[name]

    run = execute(textwrap.dedent(code), **limits)

    assert run.status is status, (run.reason, run.usage, run.stderr.text[-500:])
    assert run.passed is (status is Status.OK)
    assert run.usage.cpu_seconds is not None


def test_r04_the_evidence_counts_the_kill(execute):
    run = execute(textwrap.dedent(CASES["R04 only a child is killed"][0]), memory=128 * MIB)

    assert run.usage.oom_events
    assert run.exit_code == 0
    assert run.stdout.text == "OK\n"


def test_r05_a_deaf_run_ends_within_its_grace_and_its_cpu_time_is_recorded(execute):
    run = execute(CASES["R05 busy, deaf to SIGTERM"][0], timeout=1)

    assert run.signal == "SIGKILL"
    assert run.usage.wall_seconds < 3
    assert 0.3 < run.usage.cpu_seconds < 3


def test_r05_a_run_that_times_out_says_where_it_was(execute):
    run = execute("def endless():\n    while True: pass\nendless()", timeout=1)

    assert "line 2 in endless" in run.stderr.text


def test_r06_a_daemon_does_not_outlive_main(execute):
    mark = f"mark-{uuid.uuid4()}"
    run = execute(
        textwrap.dedent(f"""
        import os, sys, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.closerange(0, 10)
                os.execv(sys.executable, ["python3", "-c", "import time; time.sleep(3600)", "{mark}"])
            os._exit(0)
        time.sleep(0.5)
        print("main is done")
        """)
    )
    assert run.status is Status.OK
    assert run.usage.wall_seconds < 10
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if mark in _text(path)]


def test_r09_millions_of_one_byte_writes(execute):
    run = execute("import os\nfor _ in range(1_000_000): os.write(1, b'x')", output=64 * KIB, timeout=60)
    cpu_before = time.process_time()
    again = execute("import os\nfor _ in range(1_000_000): os.write(1, b'x')", output=64 * KIB, timeout=60)
    host_cpu = time.process_time() - cpu_before

    assert run.stdout.total == again.stdout.total == 1_000_000
    assert again.stdout.dropped == 1_000_000 - 64 * KIB
    assert again.status is Status.OUTPUT_LIMIT
    assert host_cpu < again.usage.cpu_seconds


def test_r10_bytes_that_are_no_text(execute):
    run = execute("import sys; sys.stdout.buffer.write(bytes(range(256)) + b'\\xed\\xa0\\x80'); print('\\udc80')")

    assert run.status is Status.OK
    assert "\\xff" in run.stdout.text
    assert "\x00" in run.stdout.text
    assert type(run).model_validate_json(run.model_dump_json()) == run


def test_r11_nothing_of_a_full_disk_stays_on_the_host(execute, engine):
    volumes = engine.api.volumes()["Volumes"]
    code = "try:\n    open('/out/x', 'wb').write(b'x' * 10**7)\nexcept OSError: pass"
    full = execute.full(code, disk=8 * MIB, memory=128 * MIB, artifacts=MIB)

    assert full.run.status is Status.DISK_LIMIT
    assert full.run.usage.disk_peak == 8 * MIB
    assert full.run.artifacts == ()
    assert engine.api.volumes()["Volumes"] == volumes
    assert sum(path.stat().st_size for path in full.folder.rglob("*")) < MIB


def test_r12_artifacts_are_bounded_in_bytes_count_and_depth(execute):
    full = execute.full(
        textwrap.dedent("""
        import os
        open("/out/hole", "wb").truncate(1 << 50)
        for number in range(2000): open(f"/out/{number}", "w").write("x")
        os.chdir("/out")
        for _ in range(3000):
            os.mkdir("d"); os.chdir("d")
        open("deepest", "w")
        """),
        artifact_count=100,
        timeout=60,
    )
    run = full.run
    assert run.status is Status.OK
    assert len(run.artifacts) == 100
    reasons = " ".join(refused.reason for refused in run.refused)
    assert "too large" in reasons or "more was refused" in reasons
    assert len(run.refused) <= 100
    assert not any("deepest" in artifact.name for artifact in run.artifacts)


def test_r14_the_clock_cannot_be_set_and_does_not_matter(execute):
    run = execute(
        textwrap.dedent("""
        import ctypes, time
        try: time.clock_settime(time.CLOCK_REALTIME, time.time() + 86400)
        except PermissionError: print("refused")
        """)
    )
    assert run.stdout.text == "refused\n"
    assert run.finished >= run.started


def test_the_head_and_the_tail_of_long_output_are_kept(execute):
    run = execute("print('HEAD'); print('x' * 500_000); print('TAIL')", output=10 * KIB)

    assert run.stdout.text.startswith("HEAD\n")
    assert run.stdout.text.endswith("TAIL\n")
    assert f"{run.stdout.dropped} bytes dropped" in run.stdout.text
    assert run.stdout.total == 500_000 + 11
    assert run.status is Status.OUTPUT_LIMIT


def test_statuses_are_the_candidates_own_doing_under_load(execute):
    """Many at once: nobody's verdict depends on the others (R18's share that single runs can meet)."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda number: execute(f"print({number})"), range(16)))
    assert [run.stdout.text for run in runs] == [f"{number}\n" for number in range(16)]
    assert {run.status for run in runs} == {Status.OK}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
