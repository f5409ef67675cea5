"""What every runner back end must do: programs, and what their evidence must say. Run against the fake too."""

import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from sandgate import Limits, Status
from sandgate.sandbox.job import Answer, Backend, Job, new_run_id
from sandgate.schemas.run import Isolation

MIB = 1024**2


@dataclass(frozen=True)
class Program:
    """A program and what must come of it. `stdout`, `artifacts` and `result` are compared where they are given."""

    code: str
    status: Status
    exit_code: int | None = None
    signal: bool = False
    stdout: str | None = None
    stderr: str | None = None
    artifacts: dict[str, str] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    limits: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    contract: str = "script"
    result: Any = None


PROGRAMS = {
    "success": Program("print('hello')", Status.OK, 0, stdout="hello\n", stderr=""),
    "nothing": Program("pass", Status.OK, 0, stdout="", stderr=""),
    "exit code": Program("import sys; sys.exit(3)", Status.CRASHED, 3),
    "exit code 137": Program("import sys; sys.exit(137)", Status.CRASHED, 137),
    "signal": Program("import os; os.kill(os.getpid(), 9)", Status.CRASHED, signal=True),
    "both streams": Program(
        "import sys; print('a'); print('b', file=sys.stderr)", Status.OK, 0, stdout="a\n", stderr="b\n"
    ),
    "arguments": Program(
        "import sys; print(sys.argv[1:])", Status.OK, 0, stdout="['x', '-y']\n", arguments=("x", "-y")
    ),
    "artifacts": Program(
        "open('/out/a.txt', 'w').write('A'); open('b.txt', 'w').write('B')",
        Status.OK,
        0,
        artifacts={"a.txt": "A", "b.txt": "B"},
    ),
    "a link is refused": Program("import os; os.symlink('/etc/passwd', '/out/link')", Status.OK, 0, refused=("link",)),
    "timeout": Program("import time; time.sleep(60)", Status.TIMEOUT, signal=True, limits={"timeout": 1.0}),
    "CPU time": Program("while True: pass", Status.CPU_LIMIT, signal=True, limits={"cpu_time": 1.0, "timeout": 25.0}),
    "memory": Program(
        "hoard = []\nwhile True: hoard.append(bytearray(10**7))", Status.OOM, limits={"memory": 128 * MIB}
    ),
    "disk": Program("open('/tmp/x', 'wb').write(bytes(10**7))", Status.DISK_LIMIT, 1, limits={"disk": MIB}),
    "output": Program("print('x' * 5000)", Status.OUTPUT_LIMIT, 0, limits={"output": 1024}),
    "signals": Program(
        "def generate_signals(df): return [1] * len(df)",
        Status.OK,
        0,
        contract="signals",
        result={"contract": "signals", "strategy": "generate_signals", "positions": [1.0, 1.0], "params": {}},
    ),
}

BARS = b'{"count":2,"columns":["time","open","high","low","close","volume"]}\n' + bytes(2 * 6 * 8)
OPTIONS = {"strategy": None, "params": {}, "cash": 1.0, "commission": 0.0, "slippage": 0.0}


def check(backend: Backend, program: Program, isolation: Isolation, folder) -> None:
    """Run `program` on `backend` and compare its evidence with what must be."""
    answer = answer_of(backend, program, isolation, folder)
    run = answer.run
    assert run.status is program.status, (run.reason, run.stderr.text)
    if program.exit_code is not None:
        assert run.exit_code == program.exit_code
        assert run.signal is None
    if program.signal:
        assert run.exit_code is None
        assert run.signal
    if program.stdout is not None:
        assert run.stdout.text == program.stdout
    if program.stderr is not None:
        assert run.stderr.text == program.stderr
    assert {a.path: (folder / a.path).read_text() for a in run.artifacts if a.path != "x"} == program.artifacts
    assert tuple(refused.name for refused in run.refused) == program.refused
    if program.result is not None:
        assert json.loads(answer.result) == program.result
    else:
        assert answer.result == b""
    assert run.source == sha256(program.code.encode()).hexdigest()
    assert run.isolation is isolation
    assert run.limits == Limits(**program.limits)
    assert run.usage.wall_seconds >= 0
    assert run.finished >= run.started


def answer_of(backend: Backend, program: Program, isolation: Isolation, folder) -> Answer:
    """Run `program` on `backend`."""
    job = Job(
        name="program.py",
        code=program.code.encode(),
        source=sha256(program.code.encode()).hexdigest(),
        contract=program.contract,
        arguments=program.arguments,
        bars=BARS if program.contract != "script" else b"",
        options=OPTIONS,
    )
    return backend.run(
        job, Limits(**program.limits), isolation, run_id=new_run_id(), folder=folder, sink=lambda *_: None
    )
