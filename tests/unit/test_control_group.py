"""Control groups whose folders come and go while they are looked at."""

import shutil
import threading

import pytest

from sandgate.sandbox.control_group import ControlGroup, Mount


@pytest.fixture
def group(tmp_path):
    """A group laid out as the kernel does, on a disk, with the engine's leaf in it."""
    group = ControlGroup("ours", (Mount(tmp_path, "cgroup2", ()),))
    group.create()
    group.entrance.write_text("1\n2\n")
    return group


def test_processes_of_a_group_and_of_those_below(group):
    (group.entrance.parent.parent / "container" / "inner").mkdir(parents=True)
    (group.entrance.parent.parent / "container" / "inner" / "cgroup.procs").write_text("3\n")
    assert sorted(group.pids()) == [1, 2, 3]
    assert group.contained() == (3,)


def test_containers_may_end_while_the_group_is_listed(group):
    ended = threading.Event()

    def run_containers():
        while not ended.is_set():
            for name in "abcdefgh":
                (group.entrance.parent.parent / name / "inner").mkdir(parents=True, exist_ok=True)
            for name in "abcdefgh":
                shutil.rmtree(group.entrance.parent.parent / name)

    engine = threading.Thread(target=run_containers)
    engine.start()
    try:
        assert all(set(group.pids()) == {1, 2} for _ in range(2000))
    finally:
        ended.set()
        engine.join()


def test_absent_group_has_no_processes_and_is_removed(tmp_path):
    group = ControlGroup("never", (Mount(tmp_path, "cgroup2", ()),))
    assert group.pids() == ()
    group.remove()


def test_every_folder_of_a_group_is_removed(tmp_path):
    (tmp_path / "ours" / "container" / "inner").mkdir(parents=True)
    ControlGroup("ours", (Mount(tmp_path, "cgroup2", ()),)).remove()
    assert list(tmp_path.iterdir()) == []
