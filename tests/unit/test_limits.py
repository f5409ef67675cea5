"""Limits: what they take, and that nothing means unlimited."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sandgate import Limits
from sandgate.schemas.limits import CEILINGS, beyond, parse_seconds, parse_size


@pytest.mark.parametrize("name", Limits.model_fields)
@pytest.mark.parametrize("value", [0, -1, None, float("nan"), float("inf"), "", "0", "nan", "unlimited", True, [1]])
def test_nothing_means_unlimited(name, value):
    with pytest.raises(ValidationError):
        Limits.model_validate({name: value})


def test_an_unknown_limit_is_an_error():
    with pytest.raises(ValidationError, match="memroy"):
        Limits.model_validate({"memroy": 1})


@pytest.mark.parametrize(
    ("text", "size"),
    [("1048576", 1048576), ("64m", 64 * 2**20), ("1.5g", 3 * 2**29), ("2KiB", 2048), ("3 MB", 3 * 2**20)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30), ("500ms", 0.5), ("1.5s", 1.5), ("2m", 120), ("1h", 3600), ("1 s", 1)]
)
def test_durations(text, seconds):
    assert parse_seconds(text) == seconds


def test_files_live_in_memory():
    with pytest.raises(ValidationError, match="disk must not be larger than memory"):
        Limits(memory=64 * 2**20, disk=65 * 2**20)


def test_what_lies_beyond_a_ceiling_is_named():
    asked = CEILINGS.model_copy(update={"memory": CEILINGS.memory + 1, "timeout": CEILINGS.timeout * 2})

    assert [phrase.split()[0] for phrase in beyond(asked, CEILINGS)] == ["timeout", "memory"]
    assert beyond(CEILINGS, CEILINGS) == []


@given(st.text(max_size=40))
def test_r16_any_text_is_answered_with_a_number_or_a_value_error(text):
    for parse in (parse_size, parse_seconds):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0


def test_r16_long_texts_are_answered_at_once():
    for text in ("9" * 100_000, "9" * 100_000 + "x", " " * 100_000 + "1"):
        for parse in (parse_size, parse_seconds):
            with contextlib.suppress(ValueError):
                parse(text)
