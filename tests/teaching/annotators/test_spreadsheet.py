"""Annotators and the sheet people fill in: what spreadsheets do to a file must not reach the labels."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ka2l.errors import DataError
from ka2l.questions.question import Question
from ka2l.teaching.annotators.annotation import Annotation, Label, annotate_from_labels, annotate_gold
from ka2l.teaching.annotators.spreadsheet import COLUMNS, export_csv, import_csv

QUESTIONS = [
    Question("q1", "Capital of Österreich?", ("Wien", "Vienna")),
    Question("q2", "=1+1, is it two?"),
    Question("q3", 'Who said "no"?\nAnd when?', ("  ",)),
]
EXPECTED = {question.id: question.question for question in QUESTIONS}


def write(path: Path, *rows: str, encoding: str = "utf-8") -> Path:
    path.write_bytes("\n".join(rows).encode(encoding))
    return path


def fill(path: Path, answers: dict[str, Sequence[str]], dialect: str = "excel") -> None:
    """Do what a person with a spreadsheet does: open, fill in, save."""
    rows = list(csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
    for row in rows[1:]:
        if row[0] in answers:
            row[2 : 2 + len(answers[row[0]])] = answers[row[0]]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, dialect).writerows(rows)


def test_gold_answers_are_labels() -> None:
    annotations, missing = annotate_gold(QUESTIONS, 0.25)
    assert annotations == [Annotation("q1", ("Wien", "Vienna"), "gold", None, 0.25)]
    assert missing == ["q2", "q3"]  # white space is no answer


def test_labels_keep_their_annotator_and_confidence() -> None:
    labels: dict[str, Label | Sequence[str]] = {
        "q3": Label((" Nobody ", "", "Nobody"), 0.5, "ann"),
        "q1": ["Wien"],
        "q2": "yes",
        "other": ["not asked"],
    }
    annotations, missing = annotate_from_labels(QUESTIONS, labels, 2.0)
    assert annotations == [
        Annotation("q1", ("Wien",), "file", None, 2.0),
        Annotation("q2", ("yes",), "file", None, 2.0),  # one text, not three letters
        Annotation("q3", ("Nobody",), "ann", 0.5, 2.0),
    ]
    assert missing == []


def test_nothing_to_annotate() -> None:
    assert annotate_gold([], 1.0) == ([], [])
    assert annotate_from_labels(QUESTIONS, {}, 1.0) == ([], ["q1", "q2", "q3"])


def test_export_opens_in_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "todo.csv"
    export_csv(path, QUESTIONS, ranks={"q1": 3, "q2": 1, "q3": 2})
    assert path.read_bytes().startswith(b"\xef\xbb\xbfquestion_id,question,answer,confidence,note\r\n")
    rows = list(csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert [row[0] for row in rows[1:]] == ["q2", "q3", "q1"]  # the most wanted first
    assert rows[1] == ["q2", "'=1+1, is it two?", "", "", ""]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("dialect", ["excel", "excel-tab"])
def test_round_trip(tmp_path: Path, dialect: str) -> None:
    path = tmp_path / "todo.csv"
    export_csv(path, QUESTIONS)
    assert import_csv(path, EXPECTED)[:3] == ({}, ["q1", "q2", "q3"], [])
    fill(path, {"q1": ["Wien | Vienna|Wien", "0.9", "easy"], "q3": [" Skip "]}, dialect)
    assert import_csv(path, EXPECTED)[:3] == ({"q1": Label(("Wien", "Vienna"), 0.9, "file")}, ["q2"], ["q3"])


HOSTILE = [
    "=1+1",
    "+49",
    "-5 °C",
    "@home",
    "\tx",
    "'=1",
    "''@x",
    "'quoted'",
    "007",
    "12e5",
    "1-2",
    " =x",
    "＝x",
    "q'=1",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_cell_is_a_formula_and_nothing_is_lost(tmp_path: Path, text: str) -> None:
    path = tmp_path / "todo.csv"
    export_csv(path, [Question(text, text)])
    (row,) = csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline=""))
    assert row["question"].lstrip()[:1] not in tuple("=+-@＝＋－＠")
    assert not row["question_id"].replace("e", "").isdigit()
    assert import_csv(path, {text: text}).empty == [text]


@settings(deadline=None, max_examples=80)
@given(text=st.text(st.sampled_from("'=+-@ \ta1.e,;|\n\"é"), min_size=1, max_size=8).filter(str.strip))
def test_any_id_and_question_come_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("sheet") / "todo.csv"
    export_csv(path, [Question(text, text), Question("other", "Other?")])
    assert import_csv(path, {text: text, "other": "Other?"}).empty == [text, "other"]


def test_answers_that_look_like_formulas(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "question_id,question,answer", "a,A?,-5", "b,B?,'-5", "c,C?,'90s", "d,D?,'n Sync")
    labels = import_csv(path, {"a": "A?", "b": "B?", "c": "C?", "d": "D?"}).labels
    assert [labels[id_].answers[0] for id_ in "abcd"] == ["-5", "-5", "'90s", "'n Sync"]


def test_work_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "todo.csv"
    export_csv(path, QUESTIONS)
    export_csv(path, QUESTIONS[:2])  # nothing was filled in yet
    fill(path, {"q1": ["Wien"]})
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"todo\.csv already has 1 row filled in"):
        export_csv(path, QUESTIONS)
    assert path.read_bytes() == before
    export_csv(path, QUESTIONS, overwrite=True)
    assert import_csv(path, EXPECTED).empty == ["q1", "q2", "q3"]


@pytest.mark.parametrize("content", ["", "my notes, not a sheet\n", "question_id,question,answer,note\nq9,?,,hm\n"])
def test_other_files_are_kept_too(tmp_path: Path, content: str) -> None:
    path = tmp_path / "todo.csv"
    path.write_text(content)
    with pytest.raises(DataError, match="Fix: import it first, choose another file name"):
        export_csv(path, QUESTIONS)
    assert path.read_text() == content


def test_export_into_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot write"):
        export_csv(tmp_path / "no" / "todo.csv", QUESTIONS)


def labels_of(path: Path) -> tuple[dict[str, Label], list[str], list[str]]:
    return import_csv(path, {"a": "A?", "b": "B?"})[:3]


@pytest.mark.parametrize(
    "rows",
    [
        ["Question_ID, question ,ANSWER,annotator,confidence", "b,B?,yes,ann,0.5"],
        ["question_id;question;answer;confidence;annotator;;", "b;B?;yes;0,5;ann;;", ";;;;;;", ""],
        ["answer\tannotator\tconfidence\tquestion\tquestion_id", "yes\tann\t.5\t B?  \tb"],
        [
            "question_id,question,answer,annotator,confidence",
            "b,B?,yes,ann,0.5",
            "b,B?,,,",
            "b,B?,yes,bob,1",
            "a,A?",
        ],
    ],
)
def test_what_spreadsheets_make_of_it_is_read(tmp_path: Path, rows: list[str]) -> None:
    assert labels_of(write(tmp_path / "a.csv", *rows)) == ({"b": Label(("yes",), 0.5, "ann")}, ["a"], [])


def test_all_bad_rows_are_named_together(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        "question_id,question,answer,confidence",
        'a,"A?',
        '",fine,1',
        "zz,A?,yes,",
        "b,Beta?,yes,",
        "b,B?,yes,1.5",
        "b,B?,yes,nan",
        "b,B?,Paris, France,",
        "a,A?,other,",
        "a,A?,skip,",
        "b,B?,yes,0.5,and more",
    )
    with pytest.raises(DataError) as caught:
        labels_of(path)
    message = str(caught.value)
    assert f"{path}: 8 bad rows" in message
    for line, problem in [
        (4, "unknown question_id 'zz'"),
        (5, "the question of id 'b' was changed to 'Beta?'"),
        (6, "confidence '1.5' is not a number from 0 to 1"),
        (7, "confidence 'nan'"),
        (8, "confidence ' France'"),
        (9, "id 'a' has another answer in an earlier row"),
        (10, "id 'a' has another answer"),
        (11, "more cells than the header has, from 'and more' on"),
    ]:
        assert f"{path}:{line}: {problem}" in message
    assert "Nothing was taken from the file" in message


@pytest.mark.parametrize(
    ("rows", "encoding", "message"),
    [
        ([""], "utf-8", "the file is empty"),
        (["  ", ""], "utf-8", "the file is empty"),
        (
            ["question_id,question", "a,A?"],
            "utf-8",
            "a.csv:1: no column answer; found: question_id, question",
        ),
        (["question_id,question,answer,answer"], "utf-8", "column answer occurs twice"),
        (
            ["question_id,question,answer", "a,A?,Köln"],
            "cp1252",
            'a.csv:2: not UTF-8. Fix: save the sheet as "CSV UTF-8"',
        ),
        (["question_id,question,answer", "a,A?,yes"], "utf-16", "a.csv:1: not UTF-8"),
        (["question_id,question,answer", 'a,A?,"yes', "b,B?,no"], "utf-8", "a.csv:2: not valid CSV"),
        (["question_id,question,answer", 'a,A?,"yes" or no'], "utf-8", "a.csv:2: not valid CSV"),
    ],
)
def test_a_file_that_is_no_sheet(tmp_path: Path, rows: list[str], encoding: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        labels_of(write(tmp_path / "a.csv", *rows, encoding=encoding))
    assert message in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the file"):
        labels_of(tmp_path / "none.csv")


@pytest.mark.parametrize("written", ["?", "skip", "SKIP", " ? ", "?|?", "Skip|"])
def test_refusals(tmp_path: Path, written: str) -> None:
    path = write(tmp_path / "a.csv", "question_id,question,answer", f"a,A?,{written}", "b,B?,skip it")
    assert labels_of(path) == ({"b": Label(("skip it",))}, [], ["a"])


def test_accents_saved_apart_are_the_same_question(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "question_id,question,answer", "a,Cafe\u0301?,yes")
    assert import_csv(path, {"a": "Café?"}).labels == {"a": Label(("yes",))}
