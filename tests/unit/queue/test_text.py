from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_queue_app.errors import InvalidRequest
from django_queue_app.text import canonical, clean_json, clean_text

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()))
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(ANY_TEXT, st.integers(0, 40))
def test_cleaned_text_can_be_stored_anywhere(value: str, limit: int) -> None:
    cleaned = clean_text(value, limit)
    cleaned.encode("utf-8")
    assert "\x00" not in cleaned
    assert len(cleaned) <= limit


@given(ANY_JSON)
def test_cleaned_json_can_be_stored_or_is_refused(value: Any) -> None:
    try:
        cleaned = clean_json(value)
    except InvalidRequest:
        return
    written = canonical(cleaned)
    written.encode("utf-8")
    assert "\\u0000" not in written.replace("\\\\", "")
    assert clean_json(json.loads(written)) == json.loads(written)


def test_cleaning_keeps_hangul_and_line_ends() -> None:
    assert clean_text(" 종양\nsecond line\x07 ", 100) == "종양\nsecond line"


def test_a_bottomless_result_is_refused() -> None:
    value: Any = 1
    for _ in range(100):
        value = [value]
    with pytest.raises(InvalidRequest):
        clean_json(value)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_hold_is_refused(number: float) -> None:
    with pytest.raises(InvalidRequest):
        clean_json({"volume": [number]})


def test_canonical_text_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
