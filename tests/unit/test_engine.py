"""Which engine is asked, and what is said when none answers."""

import json
import socket
from hashlib import sha256
from pathlib import Path

import pytest

from sandgate import PrerequisiteError, Settings
from sandgate.sandbox import engine


@pytest.fixture
def settings(tmp_path):
    return Settings(state=tmp_path / "state")


def test_docker_host_is_asked_alone(settings, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert list(engine.candidates(settings)) == ["tcp://127.0.0.1:1"]


def test_tls_goes_with_docker_host(settings, monkeypatch, tmp_path):
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).touch()
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))

    ((host, tls),) = engine.candidates(settings).items()

    assert host == "tcp://127.0.0.1:1"
    assert tls is not None
    assert tls.cert == (str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))


def test_the_current_context_comes_first_and_our_own_engine_last(settings, monkeypatch):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    folder = Path.home() / ".docker"
    meta = folder / "contexts/meta" / sha256(b"far").hexdigest()
    meta.mkdir(parents=True)
    endpoint = {"docker": {"Host": "unix:///far.sock", "SkipTLSVerify": False}}
    (meta / "meta.json").write_text(json.dumps({"Name": "far", "Metadata": {}, "Endpoints": endpoint}))
    (folder / "config.json").write_text('{"currentContext": "far"}')

    own = f"unix://{settings.state}/engine/docker.sock"
    assert list(engine.candidates(settings)) == ["unix:///far.sock", "unix:///var/run/docker.sock", own]


def test_without_a_context_the_default_socket_comes_first(settings, monkeypatch):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert next(iter(engine.candidates(settings))) == "unix:///var/run/docker.sock"


def test_nobody_there_is_one_line_that_says_what_to_do(settings, monkeypatch, tmp_path):
    for host in (f"unix://{tmp_path}/none.sock", "tcp://127.0.0.1:9", "unix://" + "/long" * 60):
        monkeypatch.setenv("DOCKER_HOST", host)
        with pytest.raises(PrerequisiteError, match="sandbox engine up") as caught:
            engine.connect(settings)
        assert "\n" not in str(caught.value)


def test_somebody_who_is_no_engine_does_not_count(settings, monkeypatch, tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        server.close()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/s")
        with pytest.raises(PrerequisiteError):
            engine.connect(settings)
