"""A file of answers: every bad row is named, and then nothing is taken from it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from answer_rows import answered, good_rows, write
from ka2l import import_answers
from ka2l.common.atomic_files import parts, read_table
from ka2l.errors import DataError, RunError
from ka2l.pipeline.run import run_verb
from ka2l.pipeline.run_directory import RunDirectory
from runs import RecordingReporter

BAD = [
    ("{", "not JSON"),
    ([1], "not a JSON object"),
    ({"answers": ["a", "b"]}, "neither `id` nor `question`"),
    ({"question": " ", "answers": ["a", "b"]}, "`question` is ' ', not a text"),
    ({"question": "Who?"}, "no `answers`"),
    ({"question": "Who?", "answers": "Ada"}, "`answers` is 'Ada', not a list"),
    ({"question": "Who?", "answers": []}, "0 answers; semantic entropy needs at least 2"),
    ({"question": "Who?", "answers": ["Ada", " "]}, "answer 2 is blank; if the model ended at once, give"),
    ({"question": "Who?", "answers": ["Ada", None]}, "answer 2 is None, neither a text nor an object"),
    (
        {"question": "Who?", "answers": ["a", {"text": "b", "token_logprobs": [math.nan]}]},
        "answer 2 hold nan",
    ),
    (
        {"question": "Who?", "answers": ["a", {"text": "b", "token_logprobs": [-math.inf]}]},
        "answer 2 hold -inf",
    ),
    ({"question": "Who?", "answers": ["a", {"text": "b", "token_logprobs": [0.5]}]}, "hold 0.5"),
    ({"question": "Who?", "answers": ["a", {"text": "b", "token_logprobs": 3}]}, "not a list of numbers"),
    (
        {"question": "Who?", "answers": ["a"] * 4, "low_temperature_answer": ""},
        "low_temperature_answer is blank",
    ),
    ({"question": "Who?", "answers": ["a"] * 4, "gold": [{}]}, "`gold` is [{}]"),
    ({"question": "Who?", "answers": ["a"] * 4, "gold": True}, "`gold` is True"),
    ({"question": "Who?", "answers": ["a"] * 4, "group": [1]}, "`group` is [1], neither a text nor a number"),
    ({"question": "Who?", "answers": ["a"] * 4, "group": {}}, "`group` is {}"),
    ({"question": "Who?", "answers": ["a"] * 4, "group": False}, "`group` is False"),
    ({"question": "Who?", "answers": ["a"]}, "1 answer; semantic entropy"),
    (
        {"question": "Who?", "answers": ["a"] * 3},
        "3 answers, but most rows have 4; sample.n=3 takes the first 3",
    ),
    (answered(3, 2), "this question is already in a.jsonl:4"),
    ({**answered(3, 2), "question": "what is the capital of LAND 3"}, "is already in a.jsonl:4"),
    ('{"question": "Who \\ud800?", "answers": ["a", "b"]}', "half a surrogate pair"),
    ({"id": 7, "answers": ["a"] * 4}, "no `question`, and there is no run here"),
]


@pytest.mark.parametrize(("row", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_a_bad_row_is_named_and_nothing_is_imported(tmp_path: Path, row: Any, message: str) -> None:
    file = write(tmp_path / "a.jsonl", [*good_rows(), row])
    with pytest.raises(DataError) as caught:
        import_answers(tmp_path / "run", file, reporter=RecordingReporter())
    assert f"a.jsonl:21: {message}" in str(caught.value) or message in str(caught.value).split("a.jsonl:21: ")[1]
    assert "nothing was imported" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_bad_rows_are_listed_together_the_first_twenty(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [*good_rows(), *[{"question": f"Q{i}"} for i in range(25)]])
    with pytest.raises(DataError, match=r"25 bad rows(.|\n)*a\.jsonl:40: (.|\n)*… and 5 more"):
        import_answers(tmp_path / "run", file, reporter=RecordingReporter())


def test_bad_rows_are_told_from_top_to_bottom(tmp_path: Path) -> None:
    rows = [
        {"id": "nobody", "answers": ["a"] * 4},
        {"question": "Who?", "answers": ["a"] * 3},
        *good_rows(),
        "?",
    ]
    with pytest.raises(DataError) as caught:
        import_answers(tmp_path / "run", write(tmp_path / "a:1.jsonl", rows), reporter=RecordingReporter())
    told = [line.partition(": ")[0].strip() for line in str(caught.value).splitlines()[1:4]]
    assert told == ["a:1.jsonl:1", "a:1.jsonl:2", "a:1.jsonl:23"]


@pytest.mark.parametrize("indent", [None, 1])
def test_one_json_document_is_named_as_such(tmp_path: Path, indent: int | None) -> None:
    file = write(tmp_path / "a.jsonl", [json.dumps(good_rows(), indent=indent)])
    with pytest.raises(DataError, match=r"one JSON document, not one object per line.*jq -c '\.\[\]' a\.jsonl"):
        import_answers(tmp_path / "run", file, reporter=RecordingReporter())


def test_an_object_over_many_lines_is_named_as_such(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [json.dumps(row, indent=1) for row in good_rows()])
    with pytest.raises(DataError, match=r"one JSON document, not one object per line.*jq -c \. a\.jsonl"):
        import_answers(tmp_path / "run", file, reporter=RecordingReporter())


def test_numbers_are_read_as_text(tmp_path: Path) -> None:
    rows = good_rows()
    rows[0] |= {"id": 0, "gold": 1984, "group": 0}
    rows[1] |= {"id": 7.5, "gold": [3, "three"], "group": 0}
    rows[2] |= {"group": ""}
    directory = import_answers(tmp_path / "run", write(tmp_path / "a.jsonl", rows), reporter=RecordingReporter())
    table = read_table(directory.file("questions.parquet")).to_pylist()
    assert [(row["id"], row["answers"]) for row in table[:2]] == [("0", ["1984"]), ("7.5", ["3", "three"])]
    assert table[0]["group"] == table[1]["group"] != table[2]["group"]


def test_an_answer_the_model_left_empty_is_an_answer(tmp_path: Path) -> None:
    rows = good_rows()
    rows[0]["answers"][0] = {"text": "", "finish_reason": "stop"}
    directory = import_answers(tmp_path / "run", write(tmp_path / "a.jsonl", rows), reporter=RecordingReporter())
    assert read_table(parts(directory.file("answers"), "")[0])["text"].to_pylist()[1] == ""


def test_rows_of_different_lengths_are_cut_where_that_is_asked_for(tmp_path: Path) -> None:
    rows = good_rows()
    rows[3]["answers"] *= 2
    file = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=r"8 answers, but most rows have 4; sample\.n=4 takes the first 4"):
        import_answers(tmp_path / "run", file, reporter=RecordingReporter())
    directory = import_answers(tmp_path / "run", file, ["sample.n=4"], reporter=RecordingReporter())
    assert directory.stages["sample"].counts == {"questions": 20, "answers": 100}
    with pytest.raises(DataError, match=r"4 answers, but sample\.n=5 asks for 5"):
        import_answers(tmp_path / "other", file, ["sample.n=5"], reporter=RecordingReporter())
    with pytest.raises(RunError, match=r"there are 4 imported answers per question, and sample\.n is 6"):
        run_verb("sample", RunDirectory.open(directory.path, ["sample.n=6"]), RecordingReporter())
