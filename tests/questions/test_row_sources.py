"""Reading files of every kind, naming the broken rows together, and mapping columns to questions."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ka2l.errors import DataError
from ka2l.questions.columns import RowMapper
from ka2l.questions.load import load_questions
from ka2l.questions.question import Question
from ka2l.questions.row_sources import read_rows
from ka2l.questions.settings import QuestionsConfig

ALL_POOL = {"probe": 0, "pool": 1, "eval": 0}


def config(source: str | Path, **values: Any) -> QuestionsConfig:
    return QuestionsConfig.model_validate({"source": str(source), "roles": ALL_POOL, **values})


def load(source: str | Path, **columns: Any) -> list[Question]:
    return load_questions(config(source, columns=columns), seed=0, shots=0).questions


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def mapped(values: dict[str, Any], source: str = "x.jsonl", **columns: Any) -> Question:
    return RowMapper(config(source, columns=columns))({"question": "Q?", **values})


ROWS = [
    {"question": "Capital of France?", "answers": ["Paris"]},
    {"question": "2 + 2?", "answers": ["4", "four"]},
]


def write_rows(folder: Path, kind: str) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(ROWS), path)
        return path
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    return write(
        path,
        {
            "jsonl": lines,
            "json": json.dumps(ROWS),
            "csv": "question,answers\nCapital of France?,Paris\n2 + 2?,4|four\n",
            "tsv": 'question\tanswers\nCapital of France?\tParis\n2 + 2?\t"[""4"", ""four""]"\n',
        }[kind],
    )


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_kind_of_file_gives_the_same_questions(tmp_path: Path, kind: str) -> None:
    questions = load(write_rows(tmp_path, kind))
    assert [(q.question, list(q.answers)) for q in questions] == [(r["question"], r["answers"]) for r in ROWS]


def test_json_may_wrap_the_list_or_hold_one_object_a_line(tmp_path: Path) -> None:
    wrapped = write(tmp_path / "a.json", json.dumps({"version": 1, "data": ROWS}))
    lines = write(tmp_path / "b.json", "\n".join(map(json.dumps, ROWS)))
    assert load(wrapped) == load(lines)


def test_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"\xef\xbb\xbfquestion,answer\r\nWho?,\xc3\x89mile\r\n\r\n")
    assert load(path)[0].answers == ("Émile",)
    assert load(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"question": "Who?"}\n'))[0].answers == ()


def test_all_broken_jsonl_lines_are_named_together(tmp_path: Path) -> None:
    content = (
        b'{"question": "ok"}\n{"question": \n["list"]\n\n'
        b'{"question": "\xff"}\n{"question": 7}\n{"question": " ?"}\n{"q": 1}\n'
    )
    path = write(tmp_path / "bad.jsonl", content)
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: 6 bad rows")
    for expected in (
        "line 2: not JSON",
        "line 3: not an object {…} but a list",
        f"line 5: not UTF-8: byte 0xff at offset {content.index(0xFF)} of the file",
        "line 6: 'question' is a number, not text: 7",
        "line 7: 'question' is empty: ' ?'",
        "line 8: no 'question'",
        "Fix:",
    ):
        assert expected in message


def test_all_broken_csv_rows_are_named_together(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.csv", b'question,answer\na,b,c\nonly\n"x"y,z\n\xe9,1\n,empty\nfine,[1\nlast,"open\n')
    with pytest.raises(DataError) as caught:
        load(path)
    for expected in (
        "row 2: 3 fields, the header has 2",
        "row 3: 1 fields, the header has 2",
        "row 4: not CSV",
        "line 5: not UTF-8: byte 0xe9",
        "row 6: 'question' is empty",
        "row 7: 'answer' starts with [ but is not a JSON list",
        "row 8: not CSV",
    ):
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"\xff\xfe{\x00", "is UTF-16. Fix: save it as UTF-8"),
        ("a.jsonl", b"", "it contains no questions"),
        ("a.csv", b"question,question\na,b\n", "row 1: the header names a column twice"),
        ("a.json", b'[{"question": "a"},]', "line 1: not JSON"),
        ("a.json", b'{"a": 1}', "expected a list of objects"),
        ("a.json", b'[{"question": "a"}, 5]', "row 2: not an object {…} but a number: 5"),
        ("a.parquet", b"PAR0", "not readable as Parquet"),
        ("a.txt", b"Q", "unknown kind of file '.txt'. Known: .jsonl"),
        ("a.jsonl", b'{"question": "\\ud83d"}', "line 1: 'question' has half a surrogate pair"),
    ],
)
def test_unreadable_files_say_what_is_wrong(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_missing_file_is_not_taken_for_a_hub_dataset() -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        load("nowhere.jsonl")
    with pytest.raises(DataError, match="no such file or folder"):
        load("some/deep/path")


def test_mapped_column_that_is_nowhere_names_those_that_exist(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"stem": "Q1", "answer": {"value": "a"}}\n{"stem": "Q2", "topic": "t"}\n')
    with pytest.raises(DataError, match=r"no column 'question'\. Columns that exist: stem, answer, topic\."):
        load(path)
    with pytest.raises(DataError, match=r"no column 'answer\.text'"):
        load(path, question="stem", answers=["answer.text"])
    assert load(path, question="stem", answers=["answer.value"])[0].answers == ("a",)


@pytest.mark.parametrize(
    ("values", "answers"),
    [
        ({}, ()),
        ({"answers": None}, ()),
        ({"answers": []}, ()),
        ({"answers": "Paris"}, ("Paris",)),
        ({"answers": ["Paris", "Paris", " ", 1789, None]}, ("Paris", "1789")),
        ({"answers": {"text": ["Paris"], "answer_start": [3]}}, ("Paris",)),
        ({"answer": 1969.0}, ("1969",)),
        ({"answer": {"value": "UK", "aliases": ["GB", "UK"], "normalized_aliases": ["gb"]}}, ("UK", "GB")),
        ({"options": ["a", "b"], "answer_index": 1}, ("b",)),
        ({"options": ["a", "b"], "answer_index": -1}, ()),
        ({"opa": "w", "opb": "x", "opc": "y", "opd": "z", "cop": 2}, ("y",)),
        ({"opa": "w", "opb": "x", "opc": "y", "opd": "z", "cop": -1}, ()),
    ],
)
def test_answers_are_found_without_a_mapping(values: dict[str, Any], answers: tuple[str, ...]) -> None:
    assert mapped(values).answers == answers


@pytest.mark.parametrize(
    ("values", "columns", "message"),
    [
        ({"answers": True}, {}, "'answers' is true/false, not text: True"),
        ({"answers": {"x": 1}}, {}, "'answers' is an object without `text` or `value`"),
        ({"options": ["a"], "answer_index": 1}, {}, "'answer_index' is not an index from 0 to 0: 1"),
        ({"options": ["a"], "answer_index": "A"}, {}, "'answer_index' is not an index from 0 to 0: 'A'"),
        ({"id": ["x"]}, {}, "'id' is a list, not text"),
        (
            {"split": "train"},
            {"role": "split"},
            "'split' is 'train', allowed are probe, pool, eval, decoder, shot",
        ),
        ({}, {"role": "split"}, "'split' is nothing"),
        ({"key": None}, {"id": "key"}, "no 'key'"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        mapped(values, **columns)


def test_every_fault_of_a_row_is_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"'question' is empty: '  '; 'answers' is true/false.*; 'id' is a list"):
        mapped({"question": "  ", "answers": False, "id": []})


def test_mapping_of_every_column() -> None:
    values = {
        "stem": " What? ",
        "key": 12,
        "fact": "f1",
        "part": "eval",
        "also": ["What is it?"],
        "A": "no",
        "B": "yes",
        "right": "1",
        "topic": "t",
        "year": 1999,
        "nested": {"x": 1},
        "empty": None,
    }
    columns = {"question": "stem", "id": "key", "group": "fact", "role": "part", "rewordings": "also"}
    question = mapped(values, **columns, options=["A", "B"], answer_index="right")
    meta = {"topic": "t", "year": 1999, "rewordings": ["What is it?"]}
    assert question == Question("12", "What?", ("yes",), role="eval", group="f1", meta=meta)


def test_only_csv_lists_are_split() -> None:
    assert mapped({"answers": "a|b"}, "x.csv").answers == ("a", "b")
    assert mapped({"answers": "a|b"}, "x.jsonl").answers == ("a|b",)
    assert mapped({"rewordings": '["Q | R?"]'}, "x.tsv").rewordings == ("Q | R?",)


def test_a_key_with_a_dot_wins_over_a_path() -> None:
    assert mapped({"a.b": "flat", "a": {"b": "deep"}}, answers=["a.b"]).answers == ("flat",)


@pytest.mark.parametrize("saved", [True, False])
def test_dataset_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    if saved:
        datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(folder))
    else:
        write(folder / "test.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))
    assert [q.answers for q in load(folder)] == [("Paris",), ("4", "four")]
    with pytest.raises(DataError, match=r"no split 'dev'\. Set questions\.split to one of: test"):
        list(read_rows(config(folder, split="dev"), []))


def test_hub_datasets_and_their_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[str, str | None]] = []

    def load_dataset(name: str, subset: str | None) -> datasets.DatasetDict:
        asked.append((name, subset))
        if name == "gone":
            raise ConnectionError("no route to host")
        return datasets.DatasetDict({"validation": datasets.Dataset.from_list(ROWS[:1])})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    loaded = load_questions(config("mandarjoshi/trivia_qa", subset="rc.nocontext"), seed=0, shots=0)
    assert asked == [("mandarjoshi/trivia_qa", "rc.nocontext")]
    assert loaded.questions[0].answers == ("Paris",)
    with pytest.raises(
        DataError,
        match=r"gone: no such file here, and it cannot be loaded as a Hub dataset "
        r"\(ConnectionError: no route.*Fix: check",
    ):
        load("gone")
