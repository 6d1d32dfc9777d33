"""The user's own points: what is read, and errors that say where and what to do."""

import json
from pathlib import Path

import pytest

from curve_data import points
from ka2l.errors import DataError
from ka2l.studies.forecast.points_file import Row, read_points


def test_a_file_of_points_is_read(tmp_path: Path) -> None:
    file = points(tmp_path, "﻿labels, score,seed\n0,0.1,\n\n100,0.25,1\n100,0.27,2\n")
    rows = read_points(file)
    assert rows == [Row(0, 0.1, "", "", None), Row(100, 0.25, "", "1", None), Row(100, 0.27, "", "2", None)]
    plain = [{"labels": 0, "score": 0.1}, {"labels": 100, "score": 0.25, "seed": 1}]
    for name, text in {
        "a.json": json.dumps({"points": plain}),
        "b.json": json.dumps(plain),
        "c.jsonl": "\n".join(map(json.dumps, plain)),
    }.items():
        assert read_points(points(tmp_path, text, name)) == rows[:2]


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("p.csv", "label,score\n1,2\n", ["no column labels", "label,score", "Fix: labels,score"]),
        ("p.csv", "", ["no column labels and no column score"]),
        ("p.csv", "labels,score\n", ["no points"]),
        (
            "p.csv",
            "labels,score\nmany,0.4\n100,63\n-5,0.4\n200,\n300,nan\n",
            [
                "p.csv: 5 bad rows",
                "p.csv:line 2: labels is not a number: 'many'",
                "p.csv:line 3: score is 63, not between 0 and 1; if it is per cent, write 0.63",
                "p.csv:line 4: labels is -5, below 0",
                "p.csv:line 5: no score",
                "p.csv:line 6: score is not a number: 'nan'",
                "Fix: labels is a number from 0",
            ],
        ),
        (
            "p.csv",
            "labels,score\n100,0.4\n100,0.5\n",
            ["p.csv:line 3: the same labels and seed as line 2", "need a column `seed`"],
        ),
        ("p.csv", "labels,score,questions\n1,0.5,0\n", ["questions is 0, below 1"]),
        ("p.json", "{", ["not valid JSON"]),
        ("p.json", '{"x": 1}', ["not a list of points"]),
        ("p.json", "[3]", ["point 1 is not an object"]),
        ("p.jsonl", '{"labels": true, "score": 0.4}', ["line 1: labels is not a number: True"]),
        ("p.txt", "1 2", ["not from '.txt'"]),
    ],
)
def test_bad_files_say_where_and_what_to_do(tmp_path: Path, name: str, text: str, parts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read_points(points(tmp_path, text, name))
    for part in parts:
        assert part in str(caught.value)
