"""Candidate bytes made fit to show: undecodable bytes and everything a terminal obeys become visible escapes."""

from __future__ import annotations

import codecs
import unicodedata

_KEPT = frozenset("\n\t")
_DANGEROUS = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def inert(text: str) -> str:
    """Return `text` with control, format (bidi, zero-width), surrogate and unassigned characters escaped.

    New line and tab stay; a carriage return does not, as it overwrites what was shown before it.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(char) for char in text)


def one_line(text: str) -> str:
    """Return `text` inert and on one line: for names, subjects and log records."""
    return inert(text).replace("\n", "\\n").replace("\t", "\\t")


def decoded(data: bytes) -> str:
    """Return bytes as text; what is not UTF-8 becomes `\\xNN`, so nothing is lost."""
    return data.decode("utf-8", "backslashreplace")


def decoder() -> codecs.IncrementalDecoder:
    """Return a decoder for bytes that arrive in pieces which may split a character."""
    return codecs.getincrementaldecoder("utf-8")("backslashreplace")


def _shown(char: str) -> str:
    if char in _KEPT or unicodedata.category(char) not in _DANGEROUS:
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
