"""Numbers as text: what the page's own tests do not cover."""

import math

import pytest

from ka2l.common.number_format import NBSP, duration

SECONDS = (0.42, 9.94, 10.2, 59.7, 133, 3661, 3600 * 30 + 59)


def test_a_plain_duration_has_ordinary_spaces_and_two_digits() -> None:
    shown = [duration(seconds, plain=True) for seconds in SECONDS]
    assert shown == ["0.4 s", "9.9 s", "10 s", "1 min 00 s", "2 min 13 s", "1 h 01 min", "30 h 00 min"]


@pytest.mark.parametrize("seconds", SECONDS)
def test_on_a_page_no_number_is_separated_from_its_unit(seconds: float) -> None:
    def numbers(text: str) -> list[float]:
        return [float(part) for part in text.split() if part[0].isdigit()]

    assert all(NBSP in part for part in duration(seconds).split(" "))
    assert numbers(duration(seconds)) == numbers(duration(seconds, plain=True))


def test_no_duration() -> None:
    assert duration(math.nan) == duration(math.nan, plain=True) == "–"
