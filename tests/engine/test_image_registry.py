"""Images made on one of a registry: served here, pulled, built for real, looked at from inside and run on."""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

import sandgate
from sandgate.sandbox import reaper
from sandgate.sandbox.image import closure, libraries, registry, store
from sandgate.sandbox.image.archive import SETTLED, architecture, configuration, layer_of, pack
from sandgate.sandbox.image.packages import code_files
from sandgate.sandbox.image.profiles import CORE
from sandgate.schemas.errors import EngineError
from sandgate.schemas.run import Status
from sandgate.schemas.settings import Settings

from .test_image import IMPORTS, WALK, inside, quiet

DISTRIBUTED = ("libdl.so.2", "libgcc_s.so.1", "libpthread.so.0", "librt.so.1", "libstdc++.so.6")
"""Libraries of wheels that every glibc distribution has, so a Python image has them too."""


class Registry(BaseHTTPRequestHandler):
    """The four requests of a pull by digest: is there a registry, the manifest, and the blobs."""

    blobs: dict[str, tuple[str, Path | bytes]]
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        kind, content = self.blobs.get(self.path.rsplit("/", 1)[-1], ("application/json", b"{}"))
        body = content.read_bytes() if isinstance(content, Path) else content
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


@contextmanager
def serving(blobs) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (Registry,), {"blobs": blobs}))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def published(layer, config):
    """Return the blobs of an image of one `layer`, and the digest of its manifest."""
    kinds = "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.container.image.v1+json"
    config_digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": kinds[0],
            "config": {"mediaType": kinds[1], "size": len(config), "digest": config_digest},
            "layers": [
                {
                    "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                    "size": layer.path.stat().st_size,
                    "digest": layer.diff_id,
                }
            ],
        }
    ).encode()
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    blobs = {digest: (kinds[0], manifest), config_digest: (kinds[1], config), layer.diff_id: ("x/tar", layer.path)}
    return blobs, digest


SLIM = {
    "User": "",
    "Env": ["PATH=/usr/local/bin:/usr/bin", "LANG=C.UTF-8", "GPG_KEY=A035C8C1", "PYTHON_VERSION=3", "PYTHONHOME=/none"],
    "Entrypoint": ["/nowhere/entry.sh"],
    "Cmd": ["python3"],
    "WorkingDir": "/srv",
    "Volumes": {"/srv": {}},
    "ExposedPorts": {"80/tcp": {}},
    "Healthcheck": {"Test": ["CMD-SHELL", "exit 1"]},
    "Labels": {"maintainer": "somebody"},
}
"""What an image such as python slim says of how it is to be run."""


@pytest.fixture(scope="module")
def slim(tmp_path_factory):
    """The blobs and the digest of an image like python slim: its interpreter, setuid files, below /usr/local."""
    work = tmp_path_factory.mktemp("python")
    interpreter = closure.host_interpreter()
    (work / "packages").mkdir()
    root = work / "base"
    closure.write_base(root, interpreter, work / "packages")
    for library in DISTRIBUTED:
        _take_library(interpreter, library, root)
    for name in ("bin", interpreter.library.relative_to("usr")):
        (root / "usr/local" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "usr" / name).rename(root / "usr/local" / name)
    (root / "usr/bin").mkdir()
    (root / "tmp").mkdir()
    tar = pack(root, work / "base.tar").path
    with tarfile.open(tar, "a") as layer:
        powerful = tarfile.TarInfo("usr/bin/powerful")
        powerful.mode, powerful.uid, powerful.gid = 0o6777, 10001, 10001
        layer.addfile(powerful)
    config = json.loads(configuration([layer_of(tar)], {}, architecture())) | {"config": SLIM}
    return published(layer_of(tar), json.dumps(config).encode())


def _take_library(interpreter, name, root):
    pairs, _ = libraries.linked([interpreter.executable])
    folder = dict(pairs)["libc.so.6"].parent
    closure.copy(folder / name, root / closure._merged(folder) / name)


@pytest.fixture(scope="module")
def on_slim(engine, slim, tmp_path_factory):
    """Settings under which the image was built on the slim one, and that image."""
    blobs, digest = slim
    state = tmp_path_factory.mktemp("state")
    with serving(blobs) as port:
        reference = f"127.0.0.1:{port}/python@{digest}"
        settings = Settings(state=state, base="registry", registry_image=reference)
        image = store.ensure(engine, CORE, settings, quiet)
    yield settings, image
    engine.api.remove_image(image.id, force=True)
    engine.api.remove_image(reference)


def test_a_registry_image_gets_the_same_packages_on_top(engine, on_slim):
    settings, image = on_slim
    assert store.ensure(engine, CORE, settings, pytest.fail) == image
    assert store.verify(engine, image, settings) == []
    assert inside(engine, image.id, IMPORTS.replace("/usr/lib", "/usr/local/lib")) == "fine\n"
    assert "warden" not in inside(engine, image.id, "import sys; print(sys.path)")


def test_a_strategy_runs_on_a_registry_image(on_slim):
    settings, image = on_slim
    run = sandgate.run(code="import numpy, pandas; print('ok')", settings=settings)
    assert (run.status, run.stdout.text, run.image) == (Status.OK, "ok\n", image)


def test_only_files_are_taken_from_a_registry_image_and_no_rights(engine, on_slim):
    _, image = on_slim
    config = engine.api.inspect_image(image.id)["Config"]
    kept = {name: config.get(name) or None for name in SLIM}
    labels = {"sandgate.content": image.content, "sandgate.profile": "core"}
    assert kept == dict.fromkeys(SLIM) | SETTLED | {"Labels": labels}
    found = json.loads(inside(engine, image.id, WALK))
    assert found["/usr/bin/powerful"] == ["-rwxr-xr-x", 0, 0]
    assert {f"/usr/lib/sandgate/{name}" for name in code_files()} <= set(found)
    assert engine.api.inspect_image(image.id)["RepoTags"] == [store.tag("core", image.content)]


def test_cleanup_finds_what_a_killed_build_on_a_registry_image_leaves(engine, image, tmp_path):
    settings = Settings(state=tmp_path)
    recipe = store._recipe(CORE, settings)
    with registry._container(engine, image.id, ["/usr/bin/python3"], recipe) as container:
        (found,) = reaper.ours(engine, settings)
    assert (found.id, found.file) == (container, recipe.tag)
    assert reaper.ours(engine, settings) == []


def test_an_image_the_registry_does_not_have_is_our_fault_not_the_candidates(engine, tmp_path):
    with serving({}) as port:
        settings = Settings(state=tmp_path, registry_image=f"127.0.0.1:{port}/python@sha256:{'0' * 64}")
        with pytest.raises(EngineError, match="pull 127"):
            store.ensure(engine, CORE, settings, quiet)
