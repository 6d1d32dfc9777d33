"""Numbers as text for people: percentages, points, intervals with their n, durations; never a bare NaN."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ka2l.common.intervals import Interval

NBSP = "\u00a0"
MISSING = "–"
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def is_number(value: object) -> bool:
    """Whether it is a finite number (JSON has null instead of NaN)."""
    return isinstance(value, int | float) and math.isfinite(value)


def finite_or_none(value: Any) -> Any:
    """The value as JSON can hold it: None for NaN and infinite floats, everything else as it is."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_interval(value: object) -> Interval | None:
    """An Interval, also from the list or mapping that JSON has; None if there is no value. Bounds may be NaN."""
    if isinstance(value, Mapping):
        value = [value.get(name) for name in Interval._fields]
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 4 or not is_number(value[0]):
        return None
    low, high = (float(bound) if is_number(bound) else math.nan for bound in value[1:3])
    return Interval(float(value[0]), low, high, int(value[3]) if is_number(value[3]) else 0)


def has_bounds(interval: Interval) -> bool:
    """Whether the bootstrap gave an interval."""
    return math.isfinite(interval.low) and math.isfinite(interval.high)


def count(value: float) -> str:
    """12345 → 12,345."""
    return f"{round(value):,}" if is_number(value) else MISSING


def decimal(value: float | None, digits: int = 2) -> str:
    """A plain number with a real minus sign."""
    if value is None or not is_number(value):
        return MISSING
    return f"{value:.{digits}f}".replace("-", "−")


def percent(share: float | None, digits: int = 0) -> str:
    """0.653 → 65 %; a share above 0 is never rounded to 0 %, and one below 1 never to 100 %."""
    if share is None or not is_number(share):
        return MISSING
    text = f"{100 * share:.{digits}f}"
    if float(text) in (0.0, 100.0) and share not in (0.0, 1.0) and digits < 1:
        text = f"{100 * share:.1f}"
    if float(text) == 0.0 and share > 0:
        return f"<{NBSP}0.1{NBSP}%"
    if float(text) == 100.0 and share < 1:
        return f">{NBSP}99.9{NBSP}%"
    return f"{text}{NBSP}%"


def points(share: float | None) -> str:
    """A difference of two shares: 0.102 → +10.2."""
    if share is None or not is_number(share):
        return MISSING
    return f"{100 * share:+.1f}".replace("-", "−")


def signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign: +0.05, −0.20, 0.00."""
    if value is None or not is_number(value):
        return MISSING
    return f"{value:+.{digits}f}".replace("-", "−") if value else f"{value:.{digits}f}"


def p_value(p: float | None) -> str:
    """0.034; below a thousandth only `< 0.001`."""
    if p is None or not is_number(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def span(interval: Interval, scale: float = 1.0, digits: int = 2, signed: bool = False) -> str:
    """The bounds alone: 0.81 to 0.91; empty if there are none."""
    if not has_bounds(interval):
        return ""
    sign = "+" if signed else ""
    low, high = (f"{scale * bound:{sign}.{digits}f}" for bound in (interval.low, interval.high))
    return f"{low} to {high}".replace("-", "−")


def bounds(interval: Interval | None, scale: float = 1.0, digits: int = 2, signed: bool = False) -> str:
    """The text after a value: 0.81 to 0.91, n = 96."""
    if interval is None:
        return ""
    text = span(interval, scale, digits, signed)
    return f"{text}, n = {interval.n:,}" if text else f"no interval, n = {interval.n:,}"


def difference_verdict(interval: Interval | None) -> str:
    """The verdict on a paired difference (tuned − base) in words."""
    if interval is None or not has_bounds(interval):
        return "not measurable"
    if interval.low > 0:
        return "better"
    return "worse" if interval.high < 0 else "no clear difference"


def duration(seconds: float, *, plain: bool = False) -> str:
    """133 → 2 min 13 s.

    Args:
        seconds: the duration.
        plain: for terminals and text files: ordinary spaces, and two digits in the second unit (2 min 03 s).
    """
    if not is_number(seconds):
        return MISSING
    space, digits = (" ", 2) if plain else (NBSP, 1)
    if seconds < 9.95:
        return f"{seconds:.1f}{space}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,}{space}h {minutes:0{digits}}{space}min"
    return f"{minutes}{space}min {rest:0{digits}}{space}s" if minutes else f"{rest}{space}s"


def clean(text: object) -> str:
    """Text that can stand in a UTF-8 page: control characters and lone surrogates become U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", str(text))


def shorten(text: object, limit: int = 240) -> str:
    """Cleaned text on one line, cut to `limit` characters with an ellipsis: a model's answer can be very long."""
    line = " ".join(clean(str(text)[: 4 * limit]).split())
    cut = len(line) > limit or len(str(text)) > 4 * limit
    return f"{line[:limit].rstrip()}…" if cut else line
