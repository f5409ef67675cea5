"""The collector against a warden that lies: names, sizes, order."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandgate import Limits
from sandgate.sandbox.collector import Collector, _safe_part
from sandgate.sandbox.protocol import ChannelBroken


def collect(folder: Path, *files: tuple[str, bytes], limits: Limits | None = None) -> Collector:
    collector = Collector(folder, limits or Limits())
    for name, content in files:
        collector.begin(name, len(content))
        if content:
            collector.take(content)
    return collector


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../../b", ".", "..", "a/./b", "~/x", "CON", "a" * 300])
def test_f01_names_stay_inside(tmp_path, name):
    inside = tmp_path / "inside"
    inside.mkdir()

    (artifact,) = collect(inside, (name, b"x")).artifacts

    stored = (inside / artifact.path).resolve()
    assert stored.is_relative_to(inside.resolve())
    assert stored.read_bytes() == b"x"
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_f01_a_link_in_the_way_is_not_followed(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "a").symlink_to(outside)
    with pytest.raises(ChannelBroken, match="another one has"):
        collect(inside, ("a/b", b"x"))
    assert not list(outside.iterdir())


def test_names_that_meet_when_folded_are_kept_apart_and_said(tmp_path):
    files = [("Report.txt", b"1"), ("report.TXT", b"2"), ("e\u0301", b"3"), ("\u00e9", b"4")]

    artifacts = collect(tmp_path, *files).artifacts

    assert len({artifact.path.casefold() for artifact in artifacts}) == 4
    assert [bool(artifact.note) for artifact in artifacts] == [False, True, False, True]


@pytest.mark.parametrize("pair", [("e\u0301", "\u00e9/x"), ("a ", "a  /x"), ("X", "x/y"), ("a/b", "A/c")])
def test_a_file_and_a_folder_that_meet_are_kept_apart(tmp_path, pair):
    artifacts = collect(tmp_path, (pair[0], b"1"), (pair[1], b"2")).artifacts

    assert [(tmp_path / artifact.path).read_bytes() for artifact in artifacts] == [b"1", b"2"]
    assert artifacts[1].note


def test_files_of_one_folder_stay_in_one_folder(tmp_path):
    artifacts = collect(tmp_path, ("d e/a", b"1"), ("d e/b", b"2"), ("d:/a", b"3")).artifacts

    assert [artifact.path for artifact in artifacts] == ["d e/a", "d e/b", "d%3A/a"]
    assert not any(artifact.note for artifact in artifacts)


@pytest.mark.parametrize(
    "lie",
    [
        lambda c: c.begin("x", -1),
        lambda c: c.begin("x", 2**60),
        lambda c: c.take(b"nothing was begun"),
        lambda c: (c.begin("x", 2), c.take(b"three")),
        lambda c: (c.begin("x", 2), c.begin("y", 2)),
        lambda c: [c.begin(str(number), 0) for number in range(1000)],
        lambda c: [c.refuse(str(number), "no") for number in range(1000)],
        lambda c: c.begin("", 0),
        lambda c: c.begin("/".join("a" * 100), 0),
    ],
)
def test_what_no_warden_sends_breaks_the_channel(tmp_path, lie):
    with pytest.raises(ChannelBroken):
        lie(Collector(tmp_path, Limits()))


def test_a_file_that_never_became_whole_is_dropped(tmp_path):
    collector = Collector(tmp_path, Limits())
    collector.begin("half", 10)
    collector.take(b"12345")
    collector.close()

    assert collector.artifacts == []
    assert list(tmp_path.iterdir()) == []


@given(st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name and b"\0" not in name))
def test_f06_every_name_becomes_a_plain_one(name):
    safe = _safe_part(os.fsdecode(name))

    assert 0 < len(safe.encode()) <= 255
    assert safe.isprintable()
    assert "/" not in safe
    assert safe not in (".", "..")
    assert safe[0] not in "-."
    assert safe == safe.strip()
