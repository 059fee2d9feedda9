from __future__ import annotations

import pytest

from django_queue_app import errors
from django_queue_app.errors import InvalidRequest, ServiceError

CLASSES = [
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, ServiceError) and cls is not ServiceError
]


@pytest.mark.parametrize("cls", CLASSES)
def test_each_error_speaks_english_and_korean_and_has_a_code_and_a_status(
    cls: type[ServiceError],
) -> None:
    error = cls()
    assert error.message_in("en-us").isascii()
    assert any("가" <= character <= "힣" for character in error.message_in("ko-KR"))
    assert error.code.replace("_", "").isalpha()
    # The caller is at fault, or the site says when to come back; never a plain 500.
    assert 400 <= error.http_status < 500 or error.http_status == 503


def test_codes_are_unique() -> None:
    codes = [cls.code for cls in CLASSES]
    assert len(codes) == len(set(codes))


def test_an_error_without_a_korean_sentence_of_its_own_keeps_the_precise_one() -> None:
    assert InvalidRequest("Too many.").message_in("ko") == "Too many."
