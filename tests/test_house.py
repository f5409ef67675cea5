"""The house rules that a machine can check: layout, links, layers, the wheel, words, exit codes."""

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import sandgate
from sandgate import EngineError, GateError, PrerequisiteError, SealError, UsageError

from .conftest import ROOT

PACKAGES = ("schemas", "validation", "sandbox", "evaluation", "state", "patchflow", "service")
INSIDE = ROOT / "sandbox/inside"


def sources():
    """Every module of ours, in its real place."""
    files = [ROOT / "__init__.py", ROOT / "__main__.py", ROOT / "cli.py"]
    return files + [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_the_import_package_is_made_of_relative_links():
    links = {path.name: path for path in (ROOT / "src/sandgate").iterdir() if path.name != "__pycache__"}

    assert set(links) == {"__init__.py", "__main__.py", "cli.py", "py.typed", *PACKAGES}
    for name, link in links.items():
        assert link.is_symlink()
        assert str(link.readlink()) == f"../../{name}"


def test_required_names_are_at_the_top():
    for name in ("pyproject.toml", "sandbox", "validation", "patchflow", "state", "schemas", "cli.py", "tests"):
        assert (ROOT / name).exists(), name
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"):
        assert (ROOT / name).read_text().strip(), name


def test_layers():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_of_ours_are_relative(path):
    """A module of ours imported by a bare name would be a second copy of it, with other classes."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] not in {*PACKAGES, "cli"}, f"{path}: {name}"


def test_what_runs_inside_needs_only_the_standard_library():
    known = set(sys.stdlib_module_names) | {path.stem for path in INSIDE.glob("*.py")}
    of_images = {"numpy", "pandas", "backtesting"}
    for path in INSIDE.glob("*.py"):
        allowed = known | (of_images if path.stem in {"bars", "signals", "backtesting_run"} else set())
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                names = [node.module or ""]
            assert {name.split(".")[0] for name in names} <= allowed, path


def test_the_wheel_has_one_top_level_name_and_all_it_needs(tmp_path):
    copy = tmp_path / "copy"
    not_ours = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=not_ours)
    build = ["-m", "uv", "build", "--wheel", "--quiet", "--no-build-isolation", "--out-dir", tmp_path, copy]
    subprocess.run([sys.executable, *build], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())

    assert {name.split("/")[0] for name in names} == {
        "sandgate",
        f"sandgate-{'-'.join(wheel.name.split('-')[1:2])}.dist-info",
    }
    for path in sources():
        assert f"sandgate/{path.relative_to(ROOT)}" in names
    for pattern in ("evaluation/datasets/*", "sandbox/image/profiles/*.lock", "py.typed"):
        for path in ROOT.glob(pattern):
            assert f"sandgate/{path.relative_to(ROOT)}" in names


def test_exit_codes_are_what_the_readme_says():
    assert (GateError.exit_code, UsageError.exit_code, PrerequisiteError.exit_code) == (3, 2, 2)
    assert (EngineError.exit_code, SealError.exit_code) == (3, 3)
    assert EngineError.retryable
    assert not SealError.retryable
    table = re.findall(r"^\| (\d+) \| ", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert table == ["0", "1", "2", "3", "130"]


def test_every_public_name_is_there():
    for name in sandgate.__all__:
        assert getattr(sandgate, name) is not None
    with pytest.raises(AttributeError):
        _ = sandgate.nothing


def test_importing_the_package_imports_no_engine():
    heavy = ("docker", "numpy", "pydantic", "asyncio")
    program = f"import sandgate, sandgate.cli, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_no_module_outgrows_one_sitting():
    for path in sources():
        assert len(path.read_text().splitlines()) <= 400, path


def test_the_readme_s_example_is_a_strategy():
    from sandgate.validation.source import inspect

    example = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    shape = inspect(example.encode())
    assert shape.contract == "signals"
    assert shape.syntax_error is None


def test_no_host_and_no_machine_is_named():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    hosts = re.compile("|".join(["py" + r"pi\.org", "python" + r"hosted\.org", r"/work" + "/"]))
    for name in filter(None, tracked.split("\0")):
        path = ROOT / name
        if path.is_file() and not path.is_symlink() and path.suffix not in {".xz"}:
            assert not hosts.search(path.read_text(encoding="utf-8")), name
