"""Files of answers from another program, for `ka2l import`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write(path: Path, rows: Sequence[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def answered(number: int, spread: int, **more: Any) -> dict[str, Any]:
    """A question with four answers of which `spread` differ from the first."""
    answers = ["Lima"] * (4 - spread) + [f"City {i}" for i in range(spread)]
    return {"question": f"What is the capital of land {number}?", "answers": answers, **more}


def good_rows(count: int = 20) -> list[dict[str, Any]]:
    return [
        answered(i, 3 if i % 2 else 0, gold="Lima", low_temperature_answer="Lima" if i % 2 else "Rome")
        for i in range(count)
    ]
