"""Owners: who is alive, and who only has a dead one's pid."""

import os
import subprocess

from sandgate import Settings
from sandgate.sandbox import reaper


def test_we_are_alive_and_only_what_can_be_looked_for_and_is_not_there_is_dead():
    label = reaper.owner_label()
    machine, boot, namespace, pid, started = label.split()

    assert pid == str(os.getpid())
    assert reaper._may_be_alive(label)
    assert not reaper._may_be_alive(f"{machine} {boot} {namespace} {pid} {int(started) + 1}"), "a reused pid"
    assert not reaper._may_be_alive(f"{machine} {boot} {namespace} 999999999 1")
    assert not reaper._may_be_alive(f"{machine} an-earlier-boot {namespace} {pid} {started}")
    assert reaper._may_be_alive(f"another-machine {boot} {namespace} 999999999 1")
    assert reaper._may_be_alive(f"{machine} {boot} pid:[1] 999999999 1"), "another namespace cannot be looked into"
    for nonsense in ("", " ", "x", "a b c d e"):
        assert reaper._may_be_alive(nonsense)


def test_a_finished_process_is_dead():
    with subprocess.Popen(["sleep", "60"]) as process:
        label = str(reaper._Owner.of(process.pid))
        assert reaper._may_be_alive(label)
        process.kill()
    assert not reaper._may_be_alive(label)


def test_an_instance_keeps_its_id_and_two_have_two(tmp_path):
    first, second = (reaper.instance_id(Settings(state=tmp_path / name)) for name in "ab")

    assert first != second
    assert reaper.instance_id(Settings(state=tmp_path / "a")) == first
