"""What candidates write reaches terminals and logs only in a form that nothing obeys."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandgate.schemas.text import decoded, decoder, inert, one_line

HOSTILE = {
    "CSI": "\x1b[31m",
    "OSC 0": "\x1b]0;title\x07",
    "OSC 8": "\x1b]8;;http://x\x1b\\",
    "OSC 52": "\x1b]52;c;AAAA\x07",
    "C1 CSI": "\x9b31m",
    "carriage return": "safe\rgone",
    "backspace": "a\b",
    "bidi": "\u202egnp\u2066",
    "zero width": "a\u200bb\ufeff",
    "line separator": "a\u2028b",
    "delete": "\x7f",
    "surrogate": "\udcff",
    "tag": "\U000e0041",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_o01_nothing_stays_that_a_terminal_obeys(name):
    shown = inert(HOSTILE[name])

    assert all(char.isprintable() or char in "\n\t" for char in shown)
    assert shown.encode("utf-8")


def test_ordinary_text_stays_as_it_is():
    for text in ("plain", "Größe 日本 é", "two\nlines\tand a tab", "emoji 🎉"):
        assert inert(text) == text


@given(st.text())
def test_o02_one_line_is_one_printable_line(text):
    shown = one_line(text)
    assert len(shown.splitlines()) <= 1
    assert all(char.isprintable() or unicodedata.category(char) == "Zs" for char in shown)


@given(st.binary(), st.integers(1, 7))
def test_r10_bytes_in_pieces_read_like_bytes_at_once(data, size):
    pieces = decoder()
    text = "".join(pieces.decode(data[start : start + size]) for start in range(0, len(data), size))
    assert text + pieces.decode(b"", True) == decoded(data)
