import marshal
import os
import shutil
import sys
import types
from pathlib import Path

import pytest

from sandgate.sandbox.image import closure, libraries
from sandgate.sandbox.image.archive import architecture
from sandgate.sandbox.image.packages import code_files, compile_below, write_code
from sandgate.schemas.errors import PrerequisiteError

LDD = """/usr/bin/python3.11:
\tlinux-vdso.so.1 (0x00007f627d870000)
\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f627d77e000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f627d552000)
\t/lib64/ld-linux-x86-64.so.2{arrow} (0x00007f627d872000)
/site/numpy/x.so:
\tlibgfortran-04.so => /site/numpy/../numpy.libs/libgfortran-04.so (0x00007f627d552000)
\tstatically linked
"""


@pytest.mark.parametrize("arrow", ["", " => /usr/lib64/ld-linux-x86-64.so.2"])
def test_ldd_names_libraries_and_the_loader_at_its_canonical_place(arrow):
    found, loader = libraries.parse_ldd(LDD.format(arrow=arrow))
    assert found == [
        ("libm.so.6", Path("/lib/x86_64-linux-gnu/libm.so.6")),
        ("libc.so.6", Path("/lib/x86_64-linux-gnu/libc.so.6")),
        ("libgfortran-04.so", Path("/site/numpy/../numpy.libs/libgfortran-04.so")),
    ]
    assert loader == Path("/lib64/ld-linux-x86-64.so.2")


def test_a_missing_library_is_named():
    with pytest.raises(PrerequisiteError, match=r"libssl\.so\.3 is missing"):
        libraries.parse_ldd("x:\n\tlibssl.so.3 => not found\n")


@pytest.fixture
def program(tmp_path):
    """A copy of a real program, whose libraries ldd finds."""
    return Path(shutil.copy(closure.host_interpreter().executable, tmp_path / "program"))


def test_a_changed_library_or_program_is_noticed_and_the_same_one_is_not(program, tmp_path):
    seen = tmp_path / "images/seen"
    first = libraries.digest((program,), seen)
    known = libraries.Seen.model_validate_json(seen.read_bytes())
    assert {"program", "libc.so.6", "libm.so.6"} <= {Path(path).name for path in known.files}
    os.utime(program, (1, 1))
    assert libraries.digest((program,), seen) == first
    with program.open("ab") as file:
        file.write(b"updated")
    second = libraries.digest((program,), seen)
    assert second != first
    assert libraries.digest((program,), tmp_path / "elsewhere/seen") == second


def test_what_was_seen_is_believed_until_a_file_changes_or_goes(program, tmp_path):
    seen = tmp_path / "seen"
    true = libraries.digest((program,), seen)
    known = libraries.Seen.model_validate_json(seen.read_bytes())
    seen.write_text(known.model_copy(update={"digest": "kept"}).model_dump_json())
    assert libraries.digest((program,), seen) == "kept"
    seen.write_text(
        known.model_copy(update={"digest": "kept", "files": known.files | {"/gone": (1, 1)}}).model_dump_json()
    )
    assert libraries.digest((program,), seen) == true
    seen.write_text("damaged")
    assert libraries.digest((program,), seen) == true


def test_the_interpreter_is_the_one_below_the_virtual_environment():
    interpreter = closure.host_interpreter()
    assert not interpreter.executable.is_symlink()
    assert not interpreter.executable.is_relative_to(sys.prefix) or sys.prefix == sys.base_prefix
    assert (interpreter.stdlib / "os.py").is_file()
    assert interpreter.site.parts[0] == "usr"
    assert interpreter.site.name in ("site-packages", "dist-packages")


@pytest.fixture
def stdlib(tmp_path):
    names = [
        "os.py", "json/__init__.py", "json/__pycache__/x.pyc", "test/support.py", "unittest/test/x.py",
        "ensurepip/x.whl", "dist-packages/other.py", "config-3.11/libpython.a", "sitecustomize.py",
        "EXTERNALLY-MANAGED", "lib-dynload/_ssl.so", "lib-dynload/_tkinter.so", "lib-dynload/_testcapi.so",
    ]  # fmt: skip
    source = tmp_path / "python3.11"
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    return source


def copied(stdlib, target):
    closure.copy_stdlib(stdlib, target)
    return {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}


def test_only_what_a_run_needs_of_the_standard_library_is_taken(stdlib, tmp_path):
    assert copied(stdlib, tmp_path / "out") == {"os.py", "json/__init__.py", "lib-dynload/_ssl.so"}


def test_the_build_facts_lose_every_folder_of_this_machine(stdlib, tmp_path):
    (stdlib / "_sysconfigdata__linux_.py").write_text(
        "build_time_vars = {'prefix': '/home/me/python', 'LDFLAGS': '-L/opt/x', 'SOABI': 'cpython-311', 'N': 1}"
    )
    copied(stdlib, tmp_path / "out")
    kept = (tmp_path / "out/_sysconfigdata__linux_.py").read_text()
    assert kept == "build_time_vars = {'N': 1, 'SOABI': 'cpython-311'}\n"


def test_a_setuid_file_is_refused(stdlib, tmp_path):
    (stdlib / "os.py").chmod(0o4755)
    with pytest.raises(PrerequisiteError, match="setuid"):
        closure.copy_stdlib(stdlib, tmp_path / "out")


@pytest.mark.parametrize(
    ("prefix", "left"),
    [
        ("/home/me/3.11.7", b"/usr" + 5 * b"/" + b"3.11.7"),
        ("/usr/local", b"/usr/local"),
        ("/usr", b"/usr"),
    ],
)
def test_a_binary_names_usr_where_it_named_a_folder_of_this_machine(tmp_path, prefix, left):
    named = f"{prefix}/lib\0{prefix}\0".encode()
    (tmp_path / "python").write_bytes(b"\x7fELF\0" + named)
    (tmp_path / "text").write_bytes(named)
    (tmp_path / "link").symlink_to("python")
    closure.hide_prefix(tmp_path, Path(prefix))
    assert (tmp_path / "python").read_bytes() == b"\x7fELF\0" + left + b"/lib\0" + left + b"\0"
    assert (tmp_path / "text").read_bytes() == named


def test_bytecode_is_unchecked_and_names_the_place_inside(tmp_path):
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/module.py").write_text("def f(): return 1\n")
    compile_below(tmp_path, closure.host_interpreter().executable)
    (compiled,) = (tmp_path / "usr/lib/__pycache__").iterdir()
    assert compiled.name.removesuffix(".pyc").endswith(str(sys.implementation.cache_tag))
    content = compiled.read_bytes()
    assert int.from_bytes(content[4:8], "little") == 0b01  # by hash, and never checked
    code = marshal.loads(content[16:])
    assert isinstance(code, types.CodeType)
    assert code.co_filename == "/usr/lib/module.py"


def test_our_part_holds_accounts_mount_points_and_every_file_of_the_inside(tmp_path, monkeypatch):
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "warden.py").write_text("pass\n")
    (inside / "notes.txt").write_text("not code")
    monkeypatch.setattr("sandgate.sandbox.image.packages.INSIDE", inside)
    write_code(tmp_path / "root", code_files())
    found = {path.relative_to(tmp_path / "root").as_posix() for path in (tmp_path / "root").rglob("*")}
    assert found == {
        "dev", "etc", "etc/group", "etc/passwd", "job", "out", "proc", "sys", "tmp", "usr", "usr/lib",
        "usr/lib/sandgate", "usr/lib/sandgate/warden.py",
    }  # fmt: skip
    assert "sandbox:x:10001:10001:" in (tmp_path / "root/etc/passwd").read_text()


class Elsewhere:
    """An engine that describes itself as `version` says."""

    def __init__(self, host, **version):
        self.host = host
        self.is_local = host.startswith("unix://")
        self.version = lambda: version


@pytest.mark.parametrize(
    "engine",
    [
        Elsewhere("tcp://far:2375", Os="linux", Arch=architecture()),
        Elsewhere("unix:///d.sock", Os="linux", Arch="s390x"),
        Elsewhere("unix:///d.sock", Os="windows", Arch=architecture()),
    ],
    ids=["remote", "other-architecture", "not-linux"],
)
def test_an_engine_that_cannot_use_this_python_is_told_what_to_set(engine):
    with pytest.raises(PrerequisiteError, match="set `registry_image`"):
        closure._refuse_elsewhere(engine)
