"""How long a run takes from request to result, against the same file run in other ways.

    .venv/bin/python benchmarks/run_latency.py [ROUNDS]

Five ways, in turn within each round, so that a slower machine slows all of them: the command `sandbox run`, the
Python API in a process started for it, the API in a process that lives on, `docker run --rm` with the same
restrictions, and the bare interpreter.
Two programs: one that does nothing, one that imports numpy and pandas. Printed: median and 95th percentile in
milliseconds, and the median of each round's ratio to the bare interpreter and to `docker run`. A run that does not
end well stops the benchmark: no figure can come from runs that did nothing.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sandgate import Limits, Status, load_settings, run
from sandgate.sandbox import seal, seccomp
from sandgate.sandbox.engine import connect
from sandgate.sandbox.image import packages, profiles, store

PROGRAMS = {"pass": "pass\n", "import numpy, pandas": "import numpy, pandas\n"}
API = "import sys, sandgate; sys.exit(not sandgate.run(sys.argv[1]).passed)"
SANDBOX = [sys.executable, "-m", "sandgate", "run", "--quiet"]


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    with tempfile.TemporaryDirectory() as folder:
        for name, code in PROGRAMS.items():
            path = Path(folder) / "program.py"
            path.write_text(code)
            report(name, measure(ways(path, Path(folder)), rounds))


def ways(path: Path, folder: Path) -> dict[str, Callable[[], None]]:
    """Return each way to run the file at `path` once."""
    settings = load_settings(Path.cwd(), os.environ)
    engine = connect(settings)
    image = store.ensure(engine, profiles.CORE, settings, print)
    site = folder / "site"
    if not site.exists():
        packages.install(profiles.CORE, site, ["--python", sys.executable], settings.wheels)
    bare = f"import sys; sys.path.append({str(site)!r}); exec(open({str(path)!r}).read())"
    return {
        "sandbox run": lambda: call([*SANDBOX, str(path)]),
        "API, new process": lambda: call([sys.executable, "-c", API, str(path)]),
        "API, warm process": lambda: check(run(path, settings=settings).status),
        "docker run --rm": lambda: call(docker_command(engine.host, image.id, path.read_text(), folder)),
        "bare python -I": lambda: call([sys.executable, "-I", "-c", bare]),
    }


def docker_command(host: str, image: str, code: str, folder: Path) -> list[str]:
    """Return the client's command with the restrictions that a run of ours has."""
    limits = Limits()
    asked = seal.arguments(image, limits, None, {}, seal.FIRST_UID)
    host_config = asked["HostConfig"]
    profile = folder / "seccomp.json"
    profile.write_text(json.dumps(seccomp.profile()))
    command = ["docker", "--host", host, "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL"]
    command += ["--security-opt", "no-new-privileges", "--security-opt", f"seccomp={profile}"]
    command += ["--user", asked["User"], "--ipc", "private", "--cgroupns", "private", "--log-driver", "none"]
    command += ["--memory", str(limits.memory), "--memory-swap", str(limits.memory)]
    command += ["--cpus", str(limits.cpus), "--pids-limit", str(limits.pids)]
    for place, options in host_config["Tmpfs"].items():
        command += ["--tmpfs", f"{place}:{options}"]
    for name, value in seal.environment(limits).items():
        command += ["--env", f"{name}={value}"]
    return [*command, image, "/usr/bin/python3", "-I", "-c", code]


def call(command: list[str]) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")


def check(status: Status) -> None:
    """Stop at a run that is not OK."""
    if status is not Status.OK:
        sys.exit(f"a run ended with {status}")


def measure(what: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Return seconds for each way, `rounds` times in turn after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in what}
    for number in range(rounds + 1):
        for name, once in what.items():
            begun = time.perf_counter()
            once()
            if number:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def report(program: str, seconds: dict[str, list[float]]) -> None:
    """Print one table."""
    rounds = len(next(iter(seconds.values())))
    print(f"\n{program}  ({rounds} rounds)")
    print(f"{'way':<18}{'median ms':>10}{'p95 ms':>9}{'/ bare':>9}{'/ docker run':>14}")
    for name, values in seconds.items():
        p95 = statistics.quantiles(values, n=20)[-1]
        ratios = [
            statistics.median(mine / other for mine, other in zip(values, seconds[against], strict=True))
            for against in ("bare python -I", "docker run --rm")
        ]
        middle = 1e3 * statistics.median(values)
        print(f"{name:<18}{middle:>10.0f}{1e3 * p95:>9.0f}{ratios[0]:>9.2f}{ratios[1]:>14.2f}")


if __name__ == "__main__":
    main()
