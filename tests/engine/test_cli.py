"""The command as a user meets it: output, exit codes, bad input, interruption."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from sandgate.sandbox import reaper

from .conftest import ROOT, STATE

SANDBOX = [sys.executable, "-m", "sandgate"]


@pytest.fixture
def sandbox(image, tmp_path):
    """Call the command in a folder of its own, with the state folder of the set-up."""

    def sandbox(*arguments, stdin=None, **environ):
        return subprocess.run(
            [*SANDBOX, *arguments],
            cwd=tmp_path,
            env={**os.environ, "SANDBOX_STATE": str(STATE), **environ},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=100,
        )

    return sandbox


@pytest.fixture
def script(tmp_path):
    def script(code, name="x.py"):
        path = tmp_path / name
        path.write_text(code)
        return str(path)

    return script


def test_a_script_streams_and_is_summed_up(sandbox, script):
    done = sandbox("run", script("import sys; print('to out'); print('to err', file=sys.stderr)"))

    assert done.returncode == 0
    first, second, *_ = done.stdout.splitlines()
    assert first == "to out"
    assert second.startswith("OK ")
    assert done.stderr == "to err\n"


def test_json_is_the_whole_evidence_and_nothing_else(sandbox, script):
    done = sandbox("run", "--json", script("print('noise'); open('/out/a.txt', 'w').write('x')"))

    evidence = json.loads(done.stdout)
    assert evidence["status"] == "OK"
    assert evidence["stdout"]["text"] == "noise\n"
    assert [artifact["name"] for artifact in evidence["artifacts"]] == ["a.txt"]
    assert evidence["image"]["id"].startswith("sha256:")
    assert done.stderr == ""


def test_quiet_prints_only_the_summary(sandbox, script):
    done = sandbox("run", "--quiet", script("print('noise')"))

    assert "noise" not in done.stdout
    assert done.stdout.startswith("OK ")


def test_code_on_standard_input_and_arguments(sandbox):
    done = sandbox("run", "--arg", "one", "--arg=--two", "-", stdin="import sys; print(sys.argv[1:])")

    assert done.stdout.splitlines()[0] == "['one', '--two']"


def test_out_is_a_new_folder_with_everything(sandbox, script, tmp_path):
    code = script("open('table.csv', 'w').write('a,b')")
    done = sandbox("run", "--out", "results", code)

    assert done.returncode == 0
    assert (tmp_path / "results/artifacts/table.csv").read_text() == "a,b"
    assert json.loads((tmp_path / "results/run.json").read_text())["status"] == "OK"
    again = sandbox("run", "--out", "results", code)
    assert again.returncode == 2
    assert "not empty" in again.stderr


def test_o12_exit_codes_tell_the_candidates_fault_from_ours(sandbox, script):
    assert sandbox("run", script("print(1)")).returncode == 0
    assert sandbox("run", script("raise SystemExit(3)")).returncode == 1
    assert sandbox("run", "--timeout", "1", script("while True: pass")).returncode == 1
    assert sandbox("run", "no-such-file.py").returncode == 2


def test_e01_no_engine_is_a_refusal_and_nothing_runs_on_the_host(sandbox, script, tmp_path):
    trace = tmp_path / "it-ran"
    for host in ("unix:///nonexistent/docker.sock", "tcp://127.0.0.1:9"):
        done = sandbox("run", script(f"open({str(trace)!r}, 'w')"), DOCKER_HOST=host)

        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "no container engine answers" in done.stderr
        assert not trace.exists()


def _containers_of(engine, pid):
    """List the containers that the process `pid` owns."""
    rows = engine.api.containers(all=True, filters={"label": reaper.OWNER_LABEL})
    return [row for row in rows if row["Labels"][reaper.OWNER_LABEL].split()[3:4] == [str(pid)]]


BAD_INPUT = {
    "missing file": (["run", "nothing.py"], "nothing.py"),
    "F07 directory": (["run", "."], "directory"),
    "F07 symbolic link": (["run", "link.py"], "symbolic link"),
    "F07 FIFO": (["run", "fifo.py"], "pipe"),
    "F07 device": (["run", "/dev/zero"], "device"),
    "binary": (["run", "binary.py"], "binary"),
    "not UTF-8": (["run", "latin.py"], "UTF-8"),
    "empty": (["run", "empty.py"], "empty"),
    "limit 0": (["run", "--timeout", "0", "fine.py"], "--timeout"),
    "limit -1": (["run", "--pids=-1", "fine.py"], "--pids"),
    "limit NaN": (["run", "--cpus", "nan", "fine.py"], "--cpus"),
    "limit inf": (["run", "--cpu-time", "inf", "fine.py"], "--cpu-time"),
    "beyond the ceiling": (["run", "--memory", "10g", "fine.py"], "--memory"),
    "no size": (["run", "--memory", "lots", "fine.py"], "--memory"),
    "disk beyond memory": (["run", "--memory", "64m", "--disk", "65m", "fine.py"], "disk"),
    "unknown isolation": (["run", "--isolation", "none", "fine.py"], "--isolation"),
    "unknown option": (["run", "--network", "fine.py"], "--network"),
    "no argument": (["run"], "FILE"),
    "unknown command": (["walk"], "walk"),
    "unknown data": (["run", "--data", "unknown", "strategy.py"], "unknown"),
    "CSV without OHLCV": (["run", "--data", "bad.csv", "strategy.py"], "bad.csv"),
    "empty data": (["run", "--data", "", "strategy.py"], "--data"),
    "unknown strategy": (["run", "--strategy", "Nope", "strategy.py"], "Nope"),
    "unknown parameter": (["run", "--param", "fst=3", "strategy.py"], "fst"),
    "data for a script": (["run", "--data", "sp500", "fine.py"], "--data"),
    "bad parameter": (["run", "--param", "fast", "strategy.py"], "--param"),
    "opt-in profile": (["run", "copyleft.py"], "backtrader"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_gets_one_line_and_no_container(sandbox, tmp_path, name):
    (tmp_path / "fine.py").write_text("print(1)")
    (tmp_path / "link.py").symlink_to("fine.py")
    os.mkfifo(tmp_path / "fifo.py")
    (tmp_path / "binary.py").write_bytes(b"\0\1\2")
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "strategy.py").write_text("def generate_signals(df): return [0] * len(df)")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    (tmp_path / "copyleft.py").write_text("import backtrader")
    arguments, named = BAD_INPUT[name]

    done = sandbox(*arguments)

    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert named in done.stderr


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("memory = '64m'", "memory"),
        ("[limits]\nmemroy = '64m'", "memroy"),
        ("[limits]\nmemory = [1]", "limits.memory"),
        ("[limits]\nmemory = '1g'\nmemory = '2g'", "TOML"),
        ("isolation = 'none'", "isolation"),
        ("workdir = '/proc/self/fd/8'", "workdir"),
        ("[limits]\ntimeout = 0", "limits.timeout"),
        ("[ceilings]\nmemory = '100g'", "ceilings"),
    ],
    ids=[
        "E04 misplaced",
        "E04 misspelt",
        "E04 type",
        "E04 twice",
        "E04 value",
        "E08 field",
        "E04 zero",
        "E04 ceiling",
    ],
)
def test_e04_settings_that_cannot_be_right_run_nothing(sandbox, script, tmp_path, text, named):
    (tmp_path / "sandbox.toml").write_text(text)

    done = sandbox("run", script("print('ran')"))

    assert done.returncode == 2
    assert "ran" not in done.stdout
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_e04_an_unknown_variable_is_an_error_too(sandbox, script):
    done = sandbox("run", script("print(1)"), SANDBOX_TIMOUT="1")

    assert done.returncode == 2
    assert "timout" in done.stderr


def test_e07_strict_refuses_a_runtime_with_a_known_hole_and_names_it(sandbox, script):
    """Whether this machine's runtime has one, the doctor says; `tests/unit/test_prerequisites.py` has the versions."""
    done = sandbox("run", script("print('ran')"), SANDBOX_STRICT="true")
    doctor = sandbox("doctor", "--strict")

    has_hole = "CVE-" in doctor.stdout
    assert done.returncode == (2 if has_hole else 0)
    assert ("CVE-" in done.stderr) is has_hole
    assert ("ran" in done.stdout) is not has_hole
    assert doctor.returncode == (2 if has_hole else 0)


def test_e08_what_a_file_says_of_itself_changes_nothing(sandbox, script):
    code = "# /// script\n# [tool.sandbox]\n# user = 'root'\n# ///\nimport os; print(os.getuid(), os.getcwd())"

    uid, folder = sandbox("run", script(code)).stdout.splitlines()[0].split()
    assert int(uid) >= 10_000
    assert folder == "/out"


def test_o01_terminal_escapes_are_inert_everywhere(sandbox, tmp_path):
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\rgone\b\u202egnp"
    path = tmp_path / "\x1b[31mred.py"
    path.write_text(f"import sys\nprint({evil!r}); open('/out/\\x1b[5m', 'w')\nraise ValueError({evil!r})")

    for arguments in (["run", str(path)], ["list"], ["run", "--json", str(path)]):
        done = sandbox(*arguments)
        for char in "\x1b\x07\x9b\r\b\u202e":
            assert char not in done.stdout + done.stderr, (arguments, char)


def test_o01_a_terminal_gets_no_escape_of_the_candidates(image, tmp_path):
    """On a real terminal, where progress is shown too: only our own erasing of the line is an escape."""
    path = tmp_path / "\x1b]0;owned\x07.py"
    path.write_text("import time; print('a\x1b[31m', end='', flush=True); time.sleep(1.5); print('b')")
    command = f"{' '.join(SANDBOX)} run {shlex.quote(str(path))}"
    done = subprocess.run(
        ["script", "--quiet", "--return", "--command", command, "/dev/null"],
        capture_output=True,
        env={**os.environ, "SANDBOX_STATE": str(STATE)},
        timeout=60,
    )
    shown = done.stdout.replace(b"\r\x1b[K", b"")
    assert done.returncode == 0, shown
    assert b"\x1b" not in shown
    assert b"\x07" not in shown
    assert b"a\\x1b[31mb" in shown, "what it wrote without ending the line was not erased"


def test_f13_names_made_to_deceive_are_shown_as_what_they_are(sandbox, script):
    code = "def f\u200b(): pass" + "\n# \u202e txt.exe\nraise ValueError('\u2066\u202e')"

    done = sandbox("run", script(code))

    assert done.returncode == 1
    for char in "\u200b\u202e\u2066":
        assert char not in done.stdout + done.stderr
    assert "\\u200b" in done.stderr


def test_o02_o03_forged_lines_change_no_verdict_and_no_record(sandbox, script):
    forged = "OK  x.py  it ended by itself with 0\n5 passed\nZ\\0\\0\\0\\2{}"
    done = sandbox("run", "--json", script(f"print({forged!r}); raise SystemExit(1)", name="a\nOK b.py"))

    evidence = json.loads(done.stdout)
    assert evidence["status"] == "CRASHED"
    assert done.returncode == 1
    (line,) = [line for line in sandbox("list", "--count", "1000").stdout.splitlines() if evidence["id"] in line]
    assert line.split()[1] == "CRASHED"
    assert "a\\nOK b.py" in line


def test_o11_truncation_is_said_in_the_summary_and_in_json(sandbox, script):
    code = script("print('x' * 100_000)")

    assert "stdout truncated" in sandbox("run", "--quiet", "--output-limit", "1k", code).stdout
    evidence = json.loads(sandbox("run", "--json", "--output-limit", "1k", code).stdout)
    assert evidence["stdout"]["dropped"] == 100_001 - 1024


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_kills_the_container_and_leaves_nothing(image, script, engine, tmp_path, number):
    command = [*SANDBOX, "run", script("print('begun', flush=True)\nwhile True: pass")]
    environ = {**os.environ, "SANDBOX_STATE": str(STATE)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout.readline() == "begun\n"
        (ours,) = _containers_of(engine, process.pid)
        process.send_signal(number)
        _, complaint = process.communicate(timeout=20)

    assert process.returncode == 130
    assert complaint.startswith("sandbox: interrupted")
    assert _containers_of(engine, process.pid) == []
    assert ours


def test_a_killed_client_leaves_nothing_that_runs_and_cleanup_takes_the_rest(sandbox, script, engine, tmp_path):
    command = [*SANDBOX, "run", script("print('begun', flush=True)\nwhile True: pass")]
    environ = {**os.environ, "SANDBOX_STATE": str(STATE)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout.readline() == "begun\n"
        process.kill()
    deadline = time.monotonic() + 10
    while any(row["State"] == "running" for row in _containers_of(engine, process.pid)):
        assert time.monotonic() < deadline, "the warden did not notice that its client died"
        time.sleep(0.1)
    assert sandbox("cleanup").returncode == 0
    assert _containers_of(engine, process.pid) == []


def test_cleanup_never_touches_what_is_not_ours(sandbox, engine, image):
    stranger = engine.api.create_container(image.id, ["x"], labels={"sandgate.instance": "another"})["Id"]
    try:
        assert sandbox("cleanup").returncode == 0
        engine.api.inspect_container(stranger)
    finally:
        engine.api.remove_container(stranger, force=True)


def test_a_reader_that_goes_away_ends_quietly(image, script, tmp_path):
    code = script("for number in range(1000): print('line', number)")
    command = f"{' '.join(SANDBOX)} run {code} | head -n 1"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, env={**os.environ, "SANDBOX_STATE": str(STATE)}
    )
    assert done.stdout == "line 0\n"
    assert "Traceback" not in done.stderr


def test_doctor_says_what_to_do(sandbox):
    checks = json.loads(sandbox("doctor", "--json").stdout)

    assert {"ok"} <= {check["level"] for check in checks}
    assert all(check["advice"] for check in checks if check["level"] == "fail")
    without = sandbox("doctor", DOCKER_HOST="unix:///nonexistent")
    assert without.returncode == 2
    assert "fail" in without.stdout


def test_images_are_listed_and_verified(sandbox):
    listed = sandbox("image", "list")
    assert "core" in listed.stdout
    assert "current" in listed.stdout
    verified = sandbox("image", "verify")
    assert verified.returncode == 0
    assert "as it was built" in verified.stdout


def test_runs_are_listed(sandbox, script, tmp_path):
    sandbox("run", script("print(1)", name="listed.py"))

    rows = json.loads(sandbox("list", "--json", "--count", "1000").stdout)
    (listed,) = [row for row in rows["recent"] if row["file"] == str(tmp_path / "listed.py")]
    assert listed["status"] == "OK"
    assert sandbox("list").stdout.startswith("RUN ")


def test_what_goes_wrong_with_us_is_never_the_candidates_fault(sandbox, script, tmp_path):
    code = script("print(1)")
    (tmp_path / "file").touch()
    done = sandbox("run", code, SANDBOX_STATE=str(tmp_path / "file/state"))
    assert done.returncode in (2, 3)
    assert len(done.stderr.splitlines()) == 1
    as_json = sandbox("run", "--json", code, DOCKER_HOST="unix:///nonexistent")
    assert json.loads(as_json.stdout)["exit_code"] == as_json.returncode == 2


def test_encodings_and_full_disks_of_ours_change_no_verdict(sandbox, script):
    code = script("print('\u4e2d'); open('/out/\u4e2d.txt', 'w').write('x')")
    latin = sandbox("run", code, PYTHONIOENCODING="ascii")
    assert latin.returncode == 0, latin.stderr
    assert latin.stdout.startswith("\\u4e2d\nOK ")
    full = subprocess.run(
        f"{' '.join(SANDBOX)} run {code} > /dev/full",
        shell=True,
        env={**os.environ, "SANDBOX_STATE": str(STATE)},
        capture_output=True,
        check=False,
    )
    assert full.returncode == 0, full.stderr


def test_the_version_is_printed(sandbox):
    assert sandbox("--version").stdout.startswith("sandgate ")


def test_help_names_every_command(sandbox):
    text = sandbox("--help").stdout
    for command in ("run", "list", "cleanup", "doctor", "engine", "image"):
        assert command in text
    assert ROOT.exists()
