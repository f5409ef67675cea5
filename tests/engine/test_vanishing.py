"""E02: the engine dies while a run is under way."""

import os
import signal
import subprocess
import sys

import pytest

from sandgate import Settings
from sandgate.sandbox import daemon, reaper
from sandgate.sandbox.engine import connect
from sandgate.sandbox.image import profiles, store

SANDBOX = [sys.executable, "-m", "sandgate"]


@pytest.fixture
def mortal(tmp_path, monkeypatch):
    """An engine of our own that this test may kill, with an image on it."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    settings = Settings(state=tmp_path / "s")
    monkeypatch.setenv("SANDBOX_STATE", str(settings.state))
    daemon.up(settings, print)
    try:
        store.ensure(connect(settings), profiles.CORE, settings, print)
        yield settings
    finally:
        daemon.down(settings)


def test_e02_an_engine_that_vanishes_is_our_fault_and_leaves_nothing(mortal, tmp_path):
    (tmp_path / "x.py").write_text("print('begun', flush=True)\nwhile True: pass")
    command = [*SANDBOX, "run", "--timeout", "60", str(tmp_path / "x.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        os.kill(daemon.status(mortal).pid, signal.SIGKILL)
        out, complaint = process.communicate(timeout=60)

    assert process.returncode == 3, (out, complaint)
    assert len(complaint.splitlines()) == 1
    assert "engine" in complaint
    assert "OK" not in out
    daemon.up(mortal, print)
    cleaned = subprocess.run([*SANDBOX, "cleanup"], capture_output=True, text=True, check=False)
    assert cleaned.returncode == 0, cleaned.stderr
    assert reaper.ours(connect(mortal), mortal) == []
    assert _processes_of_runs(mortal) == []


def _processes_of_runs(settings):
    """Pids in our engine's control group that run the warden."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    command = file.read()
                with open(f"/proc/{name}/cgroup") as file:
                    groups = file.read()
            except OSError:
                continue
            inode = settings.state.joinpath("engine").stat().st_ino
            if b"warden.py" in command and str(inode) in groups:
                found.append(name)
    return found
