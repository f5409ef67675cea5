"""An engine of our own, started and stopped for real, and what it leaves behind: nothing.

These tests start `dockerd` themselves and so need root and an installed daemon, as `make test` provides.
"""

import io
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
import pytest

from sandgate.sandbox import control_group, daemon
from sandgate.sandbox.engine import connect, own_socket
from sandgate.schemas.errors import PrerequisiteError, UsageError
from sandgate.schemas.settings import Settings

IMAGE = "own-engine-test:1"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Settings with a state folder of this test's own, whose engine is the only one that is looked for."""
    settings = Settings(state=tmp_path / "state-of-alice")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{own_socket(settings)}")
    monkeypatch.delenv("SUDO_UID", raising=False)
    yield settings
    daemon.down(settings)


@pytest.fixture
def quiet():
    """Takes what would be said to people."""
    return lambda _line: None


def programs(*names: str) -> bytes:
    """Return an image's files: programs of this machine and the libraries that they load."""
    paths = [Path("/bin", name).resolve() for name in names]
    linked = subprocess.run(["ldd", *paths], capture_output=True, text=True, check=True).stdout
    libraries = {Path(path) for path in re.findall(r"(/\S+) \(0x", linked)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, path in [(f"bin/{name}", path) for name, path in zip(names, paths, strict=True)]:
            tar.add(path, name)
        for library in libraries:
            tar.add(library.resolve(), str(library).lstrip("/"))
    return buffer.getvalue()


def client(settings: Settings) -> docker.APIClient:
    return connect(settings).api


def create(api: docker.APIClient, *command: str, **host: object) -> str:
    """Make a container of the test's image, importing that first, and return its id."""
    if not api.images(IMAGE):
        api.import_image_from_data(programs("cat", "sleep"), repository=IMAGE.split(":")[0], tag="1")
    config = api.create_host_config(network_mode="none", log_config={"Type": "json-file"}, **host)
    # Without an input of its own runsc is given the machine's /dev/null, and gives it away to the container's user.
    return api.create_container(IMAGE, list(command), host_config=config, stdin_open=True)["Id"]


def output(api: docker.APIClient, container: str) -> str:
    api.start(container)
    assert api.wait(container)["StatusCode"] == 0
    return api.logs(container).decode()


def processes_that_mention(text: str) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if text in line or text in (folder / "cgroup").read_text():
                    found.append(line)
            except OSError:
                continue
    return found


def assert_nothing_left(settings: Settings, group: str) -> None:
    folder = own_socket(settings).parent
    assert processes_that_mention(str(folder)) == []
    assert processes_that_mention(group) == []
    assert str(folder) not in Path("/proc/mounts").read_text()
    assert str(daemon.NEUTRAL) not in Path("/proc/mounts").read_text()
    assert not any((tree.path / group).exists() for tree in control_group.mounted())
    assert not own_socket(settings).exists()
    assert not (folder / "docker.pid").exists()


def group_of(settings: Settings) -> str:
    entry = own_socket(settings).parent.stat()
    return f"sandgate-{entry.st_dev:x}-{entry.st_ino:x}"


def test_up_runs_containers_and_down_leaves_nothing(own):
    said: list[str] = []
    assert daemon.up(own, said.append) == f"unix://{own_socket(own)}"
    assert "started" in said[-1]
    status = daemon.status(own)
    assert status.ours
    assert status.host == f"unix://{own_socket(own)}"
    assert f"{status.pid}" == (own_socket(own).parent / "docker.pid").read_text()
    assert "runc" in status.runtimes

    api = client(own)
    assert "Name:\tcat" in output(api, create(api, "/bin/cat", "/proc/self/status"))
    running = create(api, "/bin/sleep", "600")
    api.start(running)
    group = group_of(own)
    assert processes_that_mention(running)

    started = time.monotonic()
    assert daemon.down(own)
    assert time.monotonic() - started < 8, "a container that ignores TERM must not be waited for"
    assert_nothing_left(own, group)
    assert processes_that_mention(running) == []
    assert daemon.status(own) == daemon.EngineStatus(None, False, None, (), None)
    assert not daemon.down(own), "the second time there is nothing to do"


def test_no_container_is_shown_where_we_live(own, quiet):
    """Whatever the runtime: every one that is installed is registered, and tells neither user nor folder."""
    daemon.up(own, quiet)
    runtimes = {name for name in ("crun", "runc", "runsc") if shutil.which(name)}
    assert runtimes <= set(daemon.status(own).runtimes)
    api = client(own)
    volume = api.create_volume("bars")["Name"]
    for runtime in runtimes:
        seen = ""
        for file in ("mountinfo", "cgroup", "environ"):
            options = {"runtime": runtime, "binds": [f"{volume}:/data:ro"]}
            seen += output(api, create(api, "/bin/cat", f"/proc/self/{file}", **options))
        assert "/data" in seen, "the volume itself was mounted"
        assert [word for word in own_socket(own).parts[1:-2] if len(word) > 3 and word in seen] == []


def test_only_root_may_open_the_socket(own, quiet):
    daemon.up(own, quiet)
    socket = own_socket(own)
    assert [(mode(path), path.stat().st_uid) for path in (socket.parent, socket)] == [(0o700, 0), (0o600, 0)]
    assert (socket.parent / "dockerd.log").stat().st_uid == 0, "runsc gives away the files that it writes to"


def test_user_behind_sudo_may_open_the_socket(own, quiet, monkeypatch):
    daemon.up(own, quiet)
    monkeypatch.setenv("SUDO_UID", "65534")
    daemon.up(own, quiet)
    assert owners(own) == [0, 65534, 65534], "one that runs already is handed over, and the folder above it is not"
    daemon.down(own)
    shutil.rmtree(own.state)
    daemon.up(own, quiet)
    assert owners(own) == [65534, 65534, 65534]
    assert mode(own_socket(own)) == 0o600
    assert mode(own_socket(own).parent) == 0o700


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def owners(settings: Settings) -> list[int]:
    socket = own_socket(settings)
    return [path.stat().st_uid for path in (settings.state, socket.parent, socket)]


def test_log_does_not_grow_without_end(own, quiet):
    daemon.up(own, quiet)
    log = own_socket(own).parent / "dockerd.log"
    with log.open("a") as stuffed:
        stuffed.write("x" * (daemon.LOG_BYTES + 1))
    daemon.up(own, quiet)
    assert log.stat().st_size == 0
    api = client(own)
    output(api, create(api, "/bin/cat", "/proc/self/status"))
    assert 0 < log.stat().st_size < daemon.LOG_BYTES, "the engine writes on from the new end"


def test_containers_reach_no_network(own, quiet):
    daemon.up(own, quiet)
    api = client(own)
    interfaces = output(api, create(api, "/bin/cat", "/proc/net/dev"))
    assert [line.split(":")[0].strip() for line in interfaces.splitlines()[2:]] == ["lo"]
    assert {network["Driver"] for network in api.networks()} <= {"null", "host"}


def test_crun_is_the_default_and_what_is_hidden_from_the_daemon_only_is(own, quiet):
    daemon.up(own, quiet)
    info = client(own).info()
    assert info["DefaultRuntime"] == "crun"
    assert info["MemoryLimit"]
    assert info["PidsLimit"]
    assert Path("/sys/fs/cgroup/unified").exists() == any(
        tree.path == Path("/sys/fs/cgroup/unified") for tree in control_group.mounted()
    ), "what is hidden from the daemon stays visible to everyone else"


def test_up_again_says_that_one_answers(own, quiet):
    first = daemon.up(own, quiet)
    pid = daemon.status(own).pid
    said: list[str] = []
    assert daemon.up(own, said.append) == first
    assert said == [f"an engine answers at {first}"]
    assert daemon.status(own).pid == pid


def test_images_outlive_the_engine_and_containers_do_not(own, quiet):
    daemon.up(own, quiet)
    api = client(own)
    container = create(api, "/bin/sleep", "600")
    api.start(container)
    daemon.down(own)
    daemon.up(own, quiet)
    api = client(own)
    assert api.images(IMAGE)
    assert not api.inspect_container(container)["State"]["Running"]
    api.remove_container(container)


def test_killed_daemon_is_replaced(own, quiet):
    """kill -9 leaves containerd, shims, containers, a socket and a pid file; the next `up` clears them away."""
    daemon.up(own, quiet)
    api = client(own)
    container = create(api, "/bin/sleep", "600")
    api.start(container)
    first = daemon.status(own).pid
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while daemon.status(own).pid == first and time.monotonic() < deadline:
        time.sleep(0.05)
    assert daemon.status(own).host is None
    assert processes_that_mention(container), "orphans are what this test is about"

    daemon.up(own, quiet)
    assert processes_that_mention(container) == []
    api = client(own)
    assert "Name:\tcat" in output(api, create(api, "/bin/cat", "/proc/self/status"))
    group = group_of(own)
    daemon.down(own)
    assert_nothing_left(own, group)


def test_down_after_a_kill_leaves_nothing(own, quiet):
    daemon.up(own, quiet)
    api = client(own)
    container = create(api, "/bin/sleep", "600")
    api.start(container)
    os.kill(daemon.status(own).pid, signal.SIGKILL)
    group = group_of(own)
    assert daemon.down(own)
    assert_nothing_left(own, group)
    assert processes_that_mention(container) == []


def test_pid_file_that_names_a_stranger_harms_nobody(own, quiet):
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        folder = own_socket(own).parent
        folder.mkdir(parents=True)
        (folder / "docker.pid").write_text(str(stranger.pid))
        own_socket(own).touch()
        daemon.down(own)
        assert stranger.poll() is None
        (folder / "docker.pid").write_text(str(stranger.pid))
        daemon.up(own, quiet)
        assert daemon.status(own).pid != stranger.pid
        daemon.down(own)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_two_at_once_make_one_engine(own, quiet):
    with ThreadPoolExecutor(4) as pool:
        hosts = set(pool.map(lambda _: daemon.up(own, quiet), range(4)))
    assert hosts == {f"unix://{own_socket(own)}"}
    daemons = [line for line in processes_that_mention(str(own_socket(own).parent)) if "dockerd" in line]
    assert len(daemons) == 1


def test_two_state_folders_have_an_engine_each(own, quiet, tmp_path, monkeypatch):
    daemon.up(own, quiet)
    other = Settings(state=tmp_path / "other")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{own_socket(other)}")
    daemon.up(other, quiet)
    try:
        api = client(other)
        assert api.images() == []
        assert "Name:\tcat" in output(api, create(api, "/bin/cat", "/proc/self/status"))
        first = docker.APIClient(f"unix://{own_socket(own)}", version="auto")
        assert first.images() == []
        group = group_of(other)
        daemon.down(other)
        assert_nothing_left_of_the_second_only(other, group)
        assert first.ping()
        first.close()
    finally:
        daemon.down(other)


def assert_nothing_left_of_the_second_only(settings: Settings, group: str) -> None:
    assert processes_that_mention(group) == []
    assert not own_socket(settings).exists()


def test_daemon_that_cannot_start_says_why_and_leaves_nothing(own, quiet):
    data = own_socket(own).parent / "data"
    data.mkdir(parents=True)
    (data / "image").write_text("a file where dockerd wants a folder")
    with pytest.raises(PrerequisiteError, match=r"dockerd ended: .*not a directory"):
        daemon.up(own, quiet)
    assert_nothing_left(own, group_of(own))


def test_socket_path_beyond_the_limit_of_the_kernel(tmp_path, monkeypatch, quiet):
    deep = Settings(state=tmp_path / ("d" * 120))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{own_socket(deep)}")
    with pytest.raises(PrerequisiteError, match=r"at most 107; set SANDBOX_STATE to a folder with a shorter path"):
        daemon.up(deep, quiet)
    assert not deep.state.exists()


def test_machine_without_a_daemon(own, quiet, monkeypatch):
    monkeypatch.setattr(daemon, "_PATH", "")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(PrerequisiteError, match=r"dockerd is not installed; run `apt-get install docker.io crun`"):
        daemon.up(own, quiet)


def test_only_root_may(own, quiet, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PrerequisiteError, match="sudo"):
        daemon.up(own, quiet)


def test_machine_without_control_groups(own, quiet, monkeypatch):
    monkeypatch.setattr(control_group, "mounted", lambda: ())
    with pytest.raises(PrerequisiteError, match="no control groups with the pids controller are mounted; apt-get"):
        daemon.up(own, quiet)


def test_engine_that_was_asked_for_and_is_dead_is_not_replaced(tmp_path, monkeypatch, quiet):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/elsewhere.sock")
    with pytest.raises(UsageError, match=r"DOCKER_HOST asks for .*elsewhere\.sock, which does not answer"):
        daemon.up(Settings(state=tmp_path / "state"), quiet)
