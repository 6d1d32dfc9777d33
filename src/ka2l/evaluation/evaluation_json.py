"""evaluation.json: an Evaluation as plain values, and intervals read back from them.

JSON has no NaN: NaN is written as null, and null is read back as NaN.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ka2l.common.intervals import Interval
from ka2l.common.number_format import finite_or_none
from ka2l.evaluation.protocol import Evaluation


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as dicts, lists and numbers; an interval is {"value", "low", "high", "n"}, NaN is None.

    A field that is None because it does not apply to the run (`Learned.decoded`) is left out.
    """
    plain: dict[str, Any] = _plain(evaluation)
    return plain


def interval_from(value: Interval | Mapping[str, Any] | Sequence[Any]) -> Interval:
    """An interval from its JSON form, {"value", "low", "high", "n"} or [value, low, high, n]; null becomes NaN.

    Raises:
        ValueError: `value` is neither of the two.
    """
    try:
        parts = [value[name] for name in Interval._fields] if isinstance(value, Mapping) else list(value)
        middle, low, high, n = parts
        return Interval(_number(middle), _number(low), _number(high), int(n))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"not an interval: {value!r}") from None


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return {name: _plain(part) for name, part in value._asdict().items()}
    if hasattr(value, "__dataclass_fields__"):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        return {name: _plain(part) for name, part in parts.items() if part is not None}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    return finite_or_none(value)
