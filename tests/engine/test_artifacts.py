"""Group F of the attack cases: files in, files out."""

import gzip
import os
import textwrap

from sandgate import Status


def test_f01_f05_links_fifos_and_sockets_are_refused_and_never_block(execute):
    full = execute.full(
        textwrap.dedent("""
        import os
        os.symlink("/etc/passwd", "/out/link")
        os.symlink("/proc/self", "/out/folder")
        os.mkfifo("/out/fifo")
        open("/out/real", "w").write("yes")
        os.link("/out/real", "/out/hard")
        os.chmod("/out/real", 0)
        """)
    )
    run = full.run
    assert run.status is Status.OK
    refused = {entry.name: entry.reason for entry in run.refused}
    # A hard link and its file are one regular file under two names; mode 0 stops the warden, which has no rights.
    assert refused.keys() == {"link", "folder", "fifo", "hard", "real"}
    assert "symbolic link" in refused["link"]
    assert "FIFO" in refused["fifo"]
    for artifact in run.artifacts:
        path = full.folder / "artifacts" / artifact.path
        assert path.is_file()
        assert not path.is_symlink()
        assert path.stat().st_mode & 0o777 == 0o600


def test_f04_a_bomb_is_stored_as_it_is_and_never_opened(execute):
    full = execute.full("import gzip; open('/out/bomb.gz', 'wb').write(gzip.compress(bytes(50_000_000)))")

    (artifact,) = full.run.artifacts
    assert artifact.size < 100_000
    stored = (full.folder / "artifacts" / artifact.path).read_bytes()
    assert gzip.decompress(stored) == bytes(50_000_000)


def test_f06_hostile_names_are_rebuilt_and_collisions_reported(execute):
    full = execute.full(
        textwrap.dedent("""
        import os
        names = [b"new\\nline", b"\\x1b[31mred", "bidi\\u202egnp.exe".encode(), b"-rf", b"\\xff\\xfe", b".hidden",
                 b"Case", b"case", "e\\u0301".encode(), "\\u00e9".encode(), b"a" * 250, b"sp ace "]
        for name in names: open(b"/out/" + name, "wb").write(name)
        """)
    )
    run = full.run
    assert len(run.artifacts) == 12
    paths = [artifact.path for artifact in run.artifacts]
    assert len({path.casefold() for path in paths}) == 12
    for artifact in run.artifacts:
        assert artifact.name.isprintable()
        assert artifact.path.isprintable()
        assert not artifact.path.startswith(("-", "."))
        assert (full.folder / "artifacts" / artifact.path).is_file()
    assert sum(bool(artifact.note) for artifact in run.artifacts) == 2


def test_f06_a_file_and_a_folder_that_meet_are_both_taken(execute):
    full = execute.full(
        textwrap.dedent("""
        import os
        open("/out/e\u0301", "w").write("1")
        os.mkdir("/out/\u00e9"); open("/out/\u00e9/x", "w").write("2")
        open("/out/a ", "w").write("3")
        os.mkdir("/out/a  "); open("/out/a  /x", "w").write("4")
        os.mkdir("/out/closed"); open("/out/closed/x", "w").write("5"); os.chmod("/out/closed", 0o400)
        """)
    )
    contents = {(full.folder / "artifacts" / artifact.path).read_text() for artifact in full.run.artifacts}
    assert full.run.status is Status.OK
    assert contents == {"1", "2", "3", "4"}
    assert [refused.name for refused in full.run.refused] == ["closed/x"]


def test_f09_the_input_cannot_be_changed_and_traps_beside_it_do_nothing(execute):
    run = execute(
        textwrap.dedent("""
        import os, subprocess, sys
        here = os.path.dirname(os.path.abspath(__file__))
        for name in (__file__, f"{here}/sitecustomize.py", f"{here}/x.pth", f"{here}/conftest.py",
                     "/usr/lib/python3/x.py", "/usr/lib/sandgate/warden.py"):
            for prepare in (lambda: None, lambda: os.chmod(here, 0o777), lambda: os.chmod(__file__, 0o666)):
                try:
                    prepare()
                    open(name, "w").write("raise SystemExit(9)")
                    print("wrote", name)
                except OSError: pass
        assert sys.flags.isolated and sys.dont_write_bytecode
        """)
    )
    assert run.status is Status.OK, run.stderr.text
    assert run.stdout.text == ""


def test_f11_a_candidate_shadows_neither_the_library_nor_the_harness(execute):
    run = execute(
        textwrap.dedent("""
        import sys
        ours = {"warden", "seal", "counters", "artifacts", "launch", "signals"} & set(sys.modules)
        assert not ours, ours
        assert not any("sandgate" in path for path in sys.path), sys.path
        open("/out/json.py", "w").write("raise SystemExit(9)")
        import json
        assert json.__file__.startswith("/usr/lib/python3")
        assert sys.path[-1] == "/job"
        """)
    )
    assert run.status is Status.OK, run.stderr.text


def test_files_come_back_with_their_bytes(execute):
    content = os.urandom(300_000).hex()
    full = execute.full(
        f"import os; os.makedirs('/out/a/b'); open('/out/a/b/c.bin', 'w').write('{content}'); open('rel', 'w')"
    )
    assert [artifact.path for artifact in full.run.artifacts] == ["a/b/c.bin", "rel"]
    assert (full.folder / "artifacts/a/b/c.bin").read_text() == content
