"""Taking in a file of Python, and telling its shape without running any of it."""

import hashlib
import io
import os
import socket
import time

import pytest

from sandgate.schemas.errors import UsageError
from sandgate.validation.source import MAX_BYTES, from_bytes, inspect, read_source


def test_the_bytes_are_the_files(tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes(b"\xef\xbb\xbfx = '\xc3\xa9'\r\n")
    source = read_source(str(path))
    assert source.code == path.read_bytes()
    assert source.name == str(path)
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_dash_is_standard_input():
    source = read_source("-", io.BytesIO(b"print(1)\n"))
    assert (source.name, source.code) == ("<stdin>", b"print(1)\n")


@pytest.fixture
def odd_files(tmp_path):
    (tmp_path / "file.py").write_text("x = 1\n")
    (tmp_path / "link.py").symlink_to("file.py")
    (tmp_path / "dangling.py").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.py")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket.py"))
    yield tmp_path
    listener.close()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.py", "No such file"),
        ("link.py", "is a symbolic link"),
        ("dangling.py", "is a symbolic link"),
        (".", "is a directory"),
        ("pipe.py", "is a pipe"),
        ("socket.py", "is a socket"),
        ("/dev/zero", "is a device"),
        ("file.py/x", "Not a directory"),
        ("nul\0.py", "null "),
        ("new\nline\x1b[31m.py", r"new\\nline\\x1b\[31m\.py: cannot be read"),
    ],
)
def test_f07_what_is_no_regular_file_is_refused_at_once(odd_files, name, reason):
    begin = time.monotonic()
    with pytest.raises(UsageError, match=reason) as caught:
        read_source(str(odd_files / name))
    assert time.monotonic() - begin < 1
    assert str(caught.value).isprintable()


def test_f07_a_file_that_changes_mid_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.py"
    really_open, really_fstat = os.open, os.fstat

    def exchange(*args):
        path.rename(tmp_path / "old.py")
        path.write_text("evil()\n")
        return really_open(*args)

    def grow(*args):
        descriptor = really_open(*args)
        path.write_text("x = 1\nevil()\n")
        return descriptor

    def rewrite(descriptor):
        about = really_fstat(descriptor)
        path.write_text("y = 2\n")
        os.utime(path, ns=(0, about.st_mtime_ns + 1))
        return about

    for name, attack in (("open", exchange), ("open", grow), ("fstat", rewrite)):
        path.write_text("x = 1\n")
        with monkeypatch.context() as patch:
            patch.setattr(os, name, attack)
            with pytest.raises(UsageError, match="changed while it was read"):
                read_source(str(path))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"\xef\xbb\xbf\n", "is empty"),
        (b"x = 1\0", "is binary"),
        ("x = 1".encode("utf-16"), "is binary"),
        (b"x = '\xe9'\n", r"is not UTF-8 \(byte 5\)"),
        (b"x = '\xed\xa0\x80'\n", "is not UTF-8"),
        (b"# coding: latin-1\nx = 1\n", "declares iso-8859-1"),
        (b"#!/usr/bin/python\n# -*- coding: utf-7 -*-\nx = 1\n", "declares utf-7"),
        (b"\r# coding: utf-7\rx = 1\r", "declares utf-7"),
        (b"# coding: nonsense\nx = 1\n", "declares an unknown encoding"),
        (b"#" * (MAX_BYTES + 1), "larger than 4 MB"),
    ],
)
def test_what_is_no_text_of_python_is_refused(code, reason):
    with pytest.raises(UsageError, match=reason):
        from_bytes("x.py", code)
    with pytest.raises(UsageError, match=reason):
        read_source("-", io.BytesIO(code))


@pytest.mark.parametrize(
    "code",
    [
        b"# coding: utf-8\n",
        b"# coding: UTF8\n",
        b"\xef\xbb\xbf# coding: utf_8\n",
        b"x = 1\n# a\n# coding: latin-1\n",
        b"def (",
    ],
)
def test_ordinary_text_is_taken(code):
    assert from_bytes("x.py", code).code == code


SIGNALS = "def generate_signals(df, fast=1):\n    return df\n"
STRATEGY = "class {}({}):\n    def init(self): pass\n    def next(self): pass\n"


@pytest.mark.parametrize(
    ("code", "contract", "strategies"),
    [
        ("import os\n", "script", ()),
        (SIGNALS, "signals", ("generate_signals",)),
        (
            "try:\n    pass\nexcept OSError:\n    pass\nelse:\n    " + SIGNALS.replace("\n", "\n    "),
            "signals",
            ("generate_signals",),
        ),
        (
            "class A:\n    def generate_signals(self, df): ...\nclass B(A): ...\nclass _C(A): ...\n",
            "signals",
            ("A", "B"),
        ),
        ("def f():\n    def generate_signals(df): ...\n", "script", ()),
        ("from backtesting import Strategy\n" + STRATEGY.format("A", "Strategy"), "backtesting", ("A",)),
        ("from backtesting import Strategy as S, Backtest\n" + STRATEGY.format("A", "S"), "backtesting", ("A",)),
        ("import backtesting as bt\n" + STRATEGY.format("A", "bt.Strategy"), "backtesting", ("A",)),
        ("import backtesting\n" + STRATEGY.format("A", "backtesting.backtesting.Strategy"), "backtesting", ("A",)),
        ("from backtesting import *\n" + STRATEGY.format("A", "Strategy"), "backtesting", ("A",)),
        ("from backtesting.lib import TrailingStrategy\nclass A(TrailingStrategy): ...\n", "backtesting", ("A",)),
        (
            "from backtesting import Strategy\nclass Base(Strategy):\n    def init(self): ...\n"
            "class A(Base):\n    def next(self): ...\n",
            "backtesting",
            ("A",),
        ),
        ("class Strategy: ...\n" + STRATEGY.format("A", "Strategy"), "script", ()),
        ("from backtrader import Strategy\n" + STRATEGY.format("A", "Strategy"), "script", ()),
        (
            "from backtesting import Strategy\n" + STRATEGY.format("A", "Strategy") + SIGNALS,
            "signals",
            ("generate_signals",),
        ),
        ("class A(A): ...\nclass B(C): ...\nclass C(B): ...\n", "script", ()),
        ("class A(f(), B[0], *C, metaclass=M): ...\n", "script", ()),
    ],
)
def test_contract(code, contract, strategies):
    shape = inspect(code.encode())
    assert (shape.contract, tuple(shape.strategies), shape.syntax_error) == (contract, strategies, None)


PARAMETERS = {
    "def generate_signals(df, fast=1, *, slow=2): ...": ("fast", "slow"),
    "def generate_signals(df): ...": (),
    "def generate_signals(df, **any): ...": None,
    "import functools\n@functools.cache\ndef generate_signals(df, fast): ...": None,
    "class A:\n    size = 1\n    _own = 2\n    def generate_signals(self, df, fast=1): ...": ("fast", "size"),
    "class A:\n    size: int = 1\n    def generate_signals(self, df): ...\nclass _B(A): ...": ("size",),
    "from x import Base\nclass A(Base):\n    def generate_signals(self, df): ...": None,
    "from backtesting import Strategy\nclass A(Strategy):\n    n = 1\n    def init(self): ...\n"
    "    def next(self): ...": ("n",),
}


@pytest.mark.parametrize("code", PARAMETERS)
def test_parameters_are_told_from_the_text_or_not_at_all(code):
    (found,) = inspect(code.encode()).strategies.values()
    assert found == PARAMETERS[code]


def test_imports_are_found_wherever_they_stand():
    shape = inspect(
        b"import numpy as np, os.path\nfrom backtesting.lib import crossover\nfrom . import x\nfrom .y import z\n"
        b"def f():\n    try:\n        import talib\n    except ImportError: from pandas import *\n"
    )
    assert shape.imports == {"numpy", "os", "backtesting", "talib", "pandas"}


@pytest.mark.parametrize("code", [b"def (", b"x = 1\n  y = 2\n", b"a\0b", b"x = '\xff'", b"1" * 5000, b"(" * 300])
def test_a_syntax_error_is_not_refused(code):
    shape = inspect(code)
    assert shape.contract == "script"
    assert shape.syntax_error
    assert "\n" not in shape.syntax_error


def test_r19_nothing_is_executed_imported_or_folded(tmp_path):
    trap = tmp_path / "trap"
    code = f"""
import antigravity
open({str(trap)!r}, "w")
@open({str(trap)!r}, "w")
def generate_signals(df, default=open({str(trap)!r}, "w")): ...
class A(metaclass=open({str(trap)!r}, "w")):
    def __init_subclass__(cls): open({str(trap)!r}, "w")
class B(A): ...
x = 2 ** 10 ** 9
y = "a" * 10 ** 12
"""
    begin = time.monotonic()
    assert inspect(code.encode()).contract == "signals"
    assert time.monotonic() - begin < 2
    assert not trap.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"x = " + b"-" * 1_000_000 + b"1",
        b"x = " + b"+".join([b"1"] * 500_000),
        b"x = a" + b".b" * 500_000,
        b"x = " + b"not " * 500_000 + b"1",
    ],
    ids=["signs", "sum", "attributes", "nots"],
)
def test_r19_code_made_to_break_the_parser_is_refused(code):
    begin = time.monotonic()
    with pytest.raises(UsageError, match="cannot be parsed within limits"):
        inspect(code)
    assert time.monotonic() - begin < 8


def test_r19_code_that_parses_into_too_much_memory_is_refused():
    with pytest.raises(UsageError, match=r"cannot be parsed within limits \(memory or nesting\)"):
        inspect(b"x = [" + b"[]," * 1_300_000 + b"]")
