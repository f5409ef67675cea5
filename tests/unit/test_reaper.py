"""Owners: who is alive, and who only has a dead one's pid."""

import os
import subprocess

from sandgate import Settings
from sandgate.sandbox import reaper


def test_we_are_alive_and_a_reused_pid_is_not_its_predecessor(tmp_path):
    settings = Settings(state=tmp_path)
    owner = reaper.labels(settings, "run", "x.py")[reaper.OWNER_LABEL]
    pid, started, boot = owner.split(":")

    assert pid == str(os.getpid())
    assert reaper._is_alive(owner)
    assert not reaper._is_alive(f"{pid}:{int(started) + 1}:{boot}")
    assert not reaper._is_alive(f"{pid}:{started}:another-boot")
    for nonsense in ("", ":", "x", "-1:1:1", "999999999:1:1"):
        assert not reaper._is_alive(nonsense)


def test_a_finished_process_is_dead():
    with subprocess.Popen(["sleep", "60"]) as process:
        owner = reaper._identity(process.pid)
        assert reaper._is_alive(owner)
        process.kill()
    assert not reaper._is_alive(owner)


def test_an_instance_keeps_its_id_and_two_have_two(tmp_path):
    first, second = (reaper.instance_id(Settings(state=tmp_path / name)) for name in "ab")

    assert first != second
    assert reaper.instance_id(Settings(state=tmp_path / "a")) == first
