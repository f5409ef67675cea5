"""The runtime images, built for real on the engine that answers here and looked at from inside a container."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandgate.sandbox.engine import connect
from sandgate.sandbox.image import closure, store
from sandgate.sandbox.image.packages import code_files
from sandgate.sandbox.image.profiles import BACKTESTING, BACKTRADER, CORE, PROFILES
from sandgate.schemas.errors import PrerequisiteError, SealError
from sandgate.schemas.settings import Settings

IMPORTS = """
import sys
sys.dont_write_bytecode = True
import importlib._bootstrap_external as loading
compiled = []
original = loading.SourceLoader.source_to_code
def counting(self, data, path, **rest):
    compiled.append(path)
    return original(self, data, path, **rest)
loading.SourceLoader.source_to_code = counting
import ctypes, lzma, numpy, pandas, sqlite3, ssl, talib, zoneinfo
assert not compiled, compiled
assert pandas.core.frame.__file__.startswith("/usr/lib/python3"), pandas.__file__
ctypes.CDLL("libgcc_s.so.1")
sqlite3.connect(":memory:").execute("select 1")
assert lzma.decompress(lzma.compress(b"x")) == b"x"
ssl.create_default_context()
zoneinfo.ZoneInfo("America/New_York")
pandas.date_range("2020-01-01", periods=3, tz="America/New_York")
assert numpy.linalg.det(numpy.eye(3)) == 1
assert list(talib.SMA(numpy.arange(4.0), 2))[1:] == [0.5, 1.5, 2.5]
print("fine")
"""

WALK = """
import json, os, stat
found = {}
for folder, folders, names in os.walk("/"):
    if folder == "/":
        folders[:] = sorted(set(folders) - {"proc", "sys", "dev"})
    for name in (*folders, *names):
        path = os.path.join(folder, name)
        status = os.lstat(path)
        found[path] = [stat.filemode(status.st_mode), status.st_uid, status.st_gid]
print(json.dumps(found))
"""


def quiet(line):
    assert "\n" not in line


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(state=tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def engine(settings):
    return connect(settings)


@pytest.fixture(scope="module")
def core(engine, settings):
    return store.build(engine, CORE, settings, quiet)


def inside(engine, image, code):
    """Return what `code` prints in a container of `image` that has no network, no rights and a read-only root."""
    api = engine.api
    container = api.create_container(
        image,
        ["python3", "-I", "-c", code],
        user="10001",
        host_config=api.create_host_config(
            network_mode="none", read_only=True, cap_drop=["ALL"], security_opt=["no-new-privileges"]
        ),
    )["Id"]
    try:
        api.start(container)
        status = api.wait(container)["StatusCode"]
        output = api.logs(container).decode()
        assert status == 0, output
        return output
    finally:
        api.remove_container(container, force=True)


def test_the_same_lock_gives_the_same_image_twice(engine, core, tmp_path):
    again = Settings(state=tmp_path)
    assert store.build(engine, CORE, again, quiet) == core


def test_an_image_that_is_there_is_taken_as_it_is(engine, core, settings):
    def never(line):
        raise AssertionError(line)

    assert store.ensure(engine, CORE, settings, never) == core


def test_two_at_once_build_one(tmp_path):
    settings = Settings(state=tmp_path)
    lines = []

    def ensure():
        return store.ensure(connect(settings), CORE, settings, lines.append)

    with ThreadPoolExecutor(2) as both:
        first, second = both.submit(ensure), both.submit(ensure)
    assert first.result() == second.result()
    assert len([line for line in lines if line.startswith("building")]) == 1
    assert list((tmp_path / "images").glob("building-*")) == []


def test_packages_and_libraries_work_read_only_without_compiling(engine, core):
    assert inside(engine, core.id, IMPORTS) == "fine\n"


def test_there_is_a_python_and_nothing_else_to_start(engine, core):
    found = json.loads(inside(engine, core.id, WALK))
    version = closure.host_interpreter().version
    assert {path for path in found if path.startswith("/usr/bin/")} == {
        "/usr/bin/python3",
        f"/usr/bin/python{version}",
    }
    assert not {"/bin", "/sbin", "/usr/sbin", "/usr/local"} & set(found)
    assert not [path for path in found if path.rsplit("/", 1)[-1] in {"sh", "bash", "pip", "apt", "dpkg", "ensurepip"}]


def test_no_file_is_setuid_or_writable_by_others_or_owned_by_a_user(engine, core):
    found = json.loads(inside(engine, core.id, WALK))
    made_by_the_engine = {"/.dockerenv", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/mtab"}
    ours = {path: facts for path, facts in found.items() if path not in made_by_the_engine}
    modes = {"-rw-r--r--", "-rwxr-xr-x", "drwxr-xr-x", "lrwxrwxrwx"}
    odd = {path: facts for path, facts in ours.items() if facts[0] not in modes or facts[1:] != [0, 0]}
    assert odd == {"/tmp": ["drwxrwxrwt", 0, 0]}


def test_our_code_is_inside_compiled_and_not_importable_by_default(engine, core):
    names = sorted(code_files())
    code = """
import glob, os, sys
assert "/usr/lib/sandgate" not in sys.path
print(sorted(name for name in os.listdir("/usr/lib/sandgate") if name.endswith(".py")))
print(len(glob.glob("/usr/lib/sandgate/__pycache__/*.pyc")))
"""
    assert inside(engine, core.id, code) == f"{names}\n{len(names)}\n"


def test_no_file_inside_names_a_folder_of_this_machine(engine, core, settings):
    folder = closure.host_interpreter().prefix.parent  # `/usr`, `/opt` and the like are inside, and say nothing
    strange = [str(settings.state), *([str(folder)] if len(folder.parts) > 2 else [])]
    code = f"""
import pathlib
for path in pathlib.Path("/usr").rglob("*"):
    if path.is_file():
        for folder in {strange!r}:
            if folder.encode() in path.read_bytes():
                print(path, folder)
"""
    assert inside(engine, core.id, code) == ""


@pytest.mark.parametrize("profile", [BACKTESTING, BACKTRADER], ids=lambda profile: profile.name)
def test_an_opt_in_profile_is_built_when_asked_for(engine, settings, profile):
    image = store.build(engine, profile, settings, quiet)
    assert profile.name in store.opted_in(settings)
    imports = ", ".join({*profile.imports, "talib", "pandas"})
    assert inside(engine, image.id, f"import {imports}; print({profile.name}.__name__)") == f"{profile.name}\n"


def test_images_are_listed_with_what_a_run_would_take(engine, core, settings):
    (listed,) = [image for image in store.listed(engine, settings) if image.profile == "core"]
    assert (listed.id, listed.content, listed.current) == (core.id, core.content, True)
    assert listed.tag == f"sandgate/core:{core.content[:12]}"
    assert listed.size > 50_000_000


def test_the_engines_image_is_held_against_the_record(engine, core, settings):
    assert store.verify(engine, core, settings) == []
    assert "is not recorded" in store.verify(engine, core.model_copy(update={"content": "0" * 64}), settings)[0]
    assert "recorded is" in store.verify(engine, core.model_copy(update={"id": "sha256:0"}), settings)[0]


@pytest.fixture
def rewritten(core, settings, tmp_path):
    """A function that returns settings under which the record of `core` is changed."""

    def rewrite(**changes):
        record = (settings.state / "images" / f"{core.content}.json").read_text()
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / f"{core.content}.json").write_text(json.dumps(json.loads(record) | changes))
        return Settings(state=tmp_path)

    return rewrite


def test_an_image_that_is_not_the_one_built_is_never_run(engine, core, rewritten):
    settings = rewritten(settled="0" * 64, layers=["sha256:1"])
    assert [line.split()[0] for line in store.verify(engine, core, settings)] == ["configuration", "layers"]
    with pytest.raises(SealError, match="is not what was built"):
        store.ensure(engine, CORE, settings, quiet)


def test_an_image_that_left_the_engine_is_built_again(engine, core, rewritten):
    settings = rewritten(id=f"sha256:{'0' * 64}")
    assert store.listed(engine, settings) == []
    lines = []
    assert store.ensure(engine, CORE, settings, lines.append) == core
    assert lines


def test_packages_come_from_a_folder_when_one_is_set(engine, tmp_path):
    (tmp_path / "wheels").mkdir()
    settings = Settings(state=tmp_path / "state", wheels=tmp_path / "wheels")
    with pytest.raises(PrerequisiteError, match=f"from the folder {tmp_path}/wheels") as raised:
        store.ensure(engine, CORE, settings, quiet)
    assert "\n" not in str(raised.value)
    assert [path.name for path in (tmp_path / "state/images").glob("*.json")] == []


def test_every_profile_has_another_content(settings):
    assert len({store.expected_content(profile, settings) for profile in PROFILES.values()}) == len(PROFILES)
