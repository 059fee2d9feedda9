from __future__ import annotations

import itertools

import pytest

from django_queue_app.states import ACTIVE, FINISHED, TRANSITIONS, Status, is_allowed, sources_of

ALLOWED = {
    ("pending", "processing"),
    ("processing", "pending"),
    ("processing", "failed"),
    ("pending", "completed"),
    ("processing", "completed"),
    ("failed", "completed"),
    ("pending", "cancelled"),
    ("processing", "cancelled"),
}


@pytest.mark.parametrize(("old", "new"), [*itertools.product(Status.values, repeat=2)])
def test_the_table_allows_exactly_what_the_contract_names(old: str, new: str) -> None:
    assert is_allowed(old, new) == ((old, new) in ALLOWED)


def test_every_state_has_a_row_and_is_either_active_or_finished() -> None:
    assert set(TRANSITIONS) == set(Status)
    assert set(Status) == ACTIVE | FINISHED
    assert not ACTIVE & FINISHED


def test_nothing_leads_out_of_completed_or_cancelled() -> None:
    assert not TRANSITIONS[Status.COMPLETED]
    assert not TRANSITIONS[Status.CANCELLED]


def test_sources_are_the_table_read_backwards() -> None:
    assert sources_of(Status.COMPLETED) == {Status.PENDING, Status.PROCESSING, Status.FAILED}
    assert sources_of(Status.CANCELLED) == {Status.PENDING, Status.PROCESSING}
