"""Duplicates, groups, disjoint roles of exact size, and the way through a table."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ka2l.errors import ConfigError, DataError
from ka2l.questions.groups import check_disjoint, join_groups, merge_duplicates
from ka2l.questions.load import LoadedQuestions, load_questions
from ka2l.questions.question import Question, from_table, to_table
from ka2l.questions.roles import assign_roles
from ka2l.questions.settings import QuestionsConfig, RolesConfig
from places import SHARED

REAL = SHARED / "data" / "qa"


def make(groups: Sequence[int], answered: bool = True) -> list[Question]:
    """One question per entry; equal entries are one group."""
    answers = ("a",) if answered else ()
    return [Question(f"q{i}", f"Question {i}?", answers, group=f"g{group}") for i, group in enumerate(groups)]


def load(folder: Path, rows: Sequence[dict[str, Any]], shots: int = 0, **values: Any) -> LoadedQuestions:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values = {"roles": {"probe": 0.3, "pool": 0.5, "eval": 0.2}, **values}
    return load_questions(QuestionsConfig.model_validate({"source": str(path), **values}), seed=3, shots=shots)


def sizes(questions: Sequence[Question]) -> dict[str, int]:
    return dict(Counter(question.role for question in questions))


# Groups of one and of two: none so large that a role is left with nothing (another test has that).
_GROUPS = st.permutations([*range(30), *range(20)])


@given(_GROUPS, st.integers(0, 5), st.randoms(use_true_random=False))
def test_roles_are_disjoint_and_independent_of_row_order(groups: list[int], shots: int, rng: random.Random) -> None:
    questions = make(groups)
    roles = RolesConfig(probe=0.3, pool=0.4, eval=0.2, decoder=0.1)
    given_roles = assign_roles(questions, roles, 1, shots)
    check_disjoint(given_roles)
    shuffled = rng.sample(questions, len(questions))
    again = {question.id: question.role for question in assign_roles(shuffled, roles, 1, shots)}
    assert again == {question.id: question.role for question in given_roles}
    assert sizes(given_roles).get("shot", 0) == shots


@given(st.data())
def test_counts_are_exact_where_groups_are_single(data: st.DataObject) -> None:
    total = data.draw(st.integers(10, 200))
    shots = data.draw(st.integers(0, 5))
    probe = data.draw(st.integers(2, total - shots - 3))
    pool = data.draw(st.integers(0, total - shots - probe))
    roles = RolesConfig(probe=probe, pool=pool, eval=0, decoder=0)
    expected = {"probe": probe, "pool": pool, "shot": shots}
    assert sizes(assign_roles(make(range(total)), roles, 0, shots)) == {k: v for k, v in expected.items() if v}


@given(st.integers(1, 300), st.integers(0, 100), st.integers(0, 100))
@example(100, 15, 30)  # (0.075 + 0.15) · 100 is 22.499999999999996
def test_fractions_are_less_than_one_question_off(total: int, first: int, second: int) -> None:
    probe, evaluated = first / 200, second / 200
    roles = RolesConfig(probe=probe, eval=evaluated, pool=1 - probe - evaluated)
    got = sizes(assign_roles(make(range(total)), roles, 0, 0))
    assert sum(got.values()) == total
    for role in ("probe", "eval", "pool"):
        assert abs(got.get(role, 0) - getattr(roles, role) * total) < 1


@settings(max_examples=30)
@given(st.integers(0, 2**31 - 1))
def test_the_seed_decides(seed: int) -> None:
    roles = RolesConfig(probe=0.5, pool=0.5, eval=0)
    questions = make(range(60))
    assert assign_roles(questions, roles, seed, 0) == assign_roles(questions, roles, seed, 0)
    assert assign_roles(questions, roles, seed, 0) != assign_roles(questions, roles, seed + 1, 0)


def test_what_no_role_asks_for_is_dropped() -> None:
    roles = RolesConfig(probe=0.2, pool=0.3, eval=0.1)
    assert sizes(assign_roles(make(range(100)), roles, 0, 0)) == {"probe": 20, "pool": 30, "eval": 10}


def test_a_group_that_crosses_a_boundary_stays_whole() -> None:
    questions = make([0] * 5 + [1] * 5 + [2] * 5)
    got = sizes(assign_roles(questions, RolesConfig(probe=7, pool=3, eval=0), 0, 0))
    assert got == {"probe": 10, "pool": 5}


def test_shots_have_answers_and_come_out_first() -> None:
    questions = [*make(range(10), answered=False), Question("a", "A?", ("x",)), Question("b", "B?", ("x",))]
    got = assign_roles(questions, RolesConfig(probe=0.5, pool=0.5, eval=0), 0, 5)
    assert {q.id for q in got if q.role == "shot"} == {"a", "b"}
    assert sizes(got) == {"shot": 2, "probe": 5, "pool": 5}


def test_shots_take_small_groups_and_drop_the_rest_of_a_group() -> None:
    questions = make([0] * 4 + [1, 2])
    got = assign_roles(questions, RolesConfig(probe=0, pool=1, eval=0), 0, 2)
    assert sizes(got) == {"shot": 2, "pool": 4}
    assert sizes(assign_roles(questions, RolesConfig(probe=0, pool=0.5, eval=0), 0, 3)) == {"shot": 3}


@pytest.mark.parametrize(
    ("roles", "error", "message"),
    [
        ({"probe": 0.6, "pool": 0.6}, ConfigError, "the fractions sum to 1.4"),
        ({"probe": 0.5, "pool": 100}, ConfigError, "all fractions (0–1) or all whole counts"),
        ({"probe": 0, "pool": 0, "eval": 0}, ConfigError, "every role is 0"),
        (
            {"probe": 5, "pool": 8, "eval": 1},
            DataError,
            "ask for 14 questions (probe 5, eval 1, decoder 0, pool 8), but there are 9 after 1 shots",
        ),
    ],
)
def test_impossible_sizes_are_refused(roles: dict[str, float], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        assign_roles(make(range(10)), RolesConfig.model_validate(roles), 0, 1)
    assert message in str(caught.value)


def test_one_giant_group_is_refused() -> None:
    with pytest.raises(DataError, match=r"large groups left none of 10: there are 1 groups, and the largest has 10"):
        assign_roles(make([0] * 10), RolesConfig(), 0, 0)


def test_duplicates_unite_answers_and_rewordings(tmp_path: Path) -> None:
    rows = [
        {"question": "Who wrote it?", "answers": ["Ann"], "rewordings": ["Author?"], "source": "a"},
        {"question": "who WROTE it", "answers": ["Bob", "Ann"], "rewordings": ["By whom?", "Author?"]},
        {"question": "Another?", "answers": ["x"]},
    ]
    loaded = load(tmp_path, rows, roles={"pool": 1, "probe": 0, "eval": 0})
    assert loaded.duplicates == 1
    first = loaded.questions[0]
    assert (first.question, first.answers, first.rewordings) == (
        "Who wrote it?",
        ("Ann", "Bob"),
        ("Author?", "By whom?"),
    )
    assert first.meta["source"] == "a"


def test_merging_is_idempotent() -> None:
    questions = [*make(range(5)), *make(range(3))]
    once = merge_duplicates(questions)
    assert len(once) == 5
    assert merge_duplicates(once) == once


def test_a_rewording_that_is_a_question_of_its_own_joins_the_groups() -> None:
    reworded = Question("a", "A?", group="z", meta={"rewordings": ["b"]})
    joined = join_groups([reworded, Question("b", "B?"), Question("c", "C?"), Question("d", "C", group="y")])
    assert [q.group for q in joined] == ["b", "b", "c", "c"]


def test_an_id_of_two_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2: id 'x' is already used in line 1, for another question"):
        load(tmp_path, [{"id": "x", "question": "A?"}, {"id": "x", "question": "B?"}])


def test_limit_draws_by_seed_whatever_the_order(tmp_path: Path) -> None:
    rows = [{"question": f"Question {i}?", "answers": ["a"]} for i in range(50)]
    drawn = load(tmp_path, rows, limit=20).questions
    assert len(drawn) == 20
    assert {q.id for q in load(tmp_path, rows[::-1], limit=20).questions} == {q.id for q in drawn}


def test_roles_from_a_column(tmp_path: Path) -> None:
    rows = [{"question": f"Q{i}?", "answers": ["a"], "part": part} for i, part in enumerate(["eval", "shot", "pool"])]
    loaded = load(tmp_path, rows, columns={"role": "part"}, shots=9)
    assert [q.role for q in loaded.questions] == ["eval", "shot", "pool"]


@pytest.mark.parametrize("rows", [[("Q?", "g1"), ("R?", "g1")], [("Q?", "g1"), ("q", "g2")]])
def test_a_group_or_duplicate_in_two_given_roles_is_refused(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    table = [
        {"id": f"i{n}", "question": text, "answers": ["a"], "part": part, "fact": group}
        for n, ((text, group), part) in enumerate(zip(rows, ("eval", "pool"), strict=True))
    ]
    with pytest.raises(
        DataError,
        match=r"1 group\(s\) have two roles.*\n.*'g1': eval \(question i0\), pool \(question i1\)",
    ):
        load(tmp_path, table, columns={"role": "part", "group": "fact"})


def test_evaluation_needs_answers(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"question": f"Q{i}?"} for i in range(10)]
    with pytest.raises(DataError, match=r"2 of 2 questions of role eval have no answer"):
        load(tmp_path, rows)
    assert len(load(tmp_path, rows, roles={"probe": 0.5, "pool": 0.5, "eval": 0}).questions) == 10


def test_a_source_must_be_named() -> None:
    with pytest.raises(ConfigError, match=r"questions\.source is empty"):
        load_questions(QuestionsConfig(), 0, 0)


def test_table_and_back(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    rows = [{"question": f"Où {i}?", "answers": ["é", "b"], "year": i, "rewordings": ["w"]} for i in range(10)]
    questions = load(tmp_path, rows, shots=2).questions
    pq.write_table(to_table(questions), tmp_path / "questions.parquet")
    table = pq.read_table(tmp_path / "questions.parquet")
    assert table.column_names == ["id", "question", "answers", "role", "group", "meta"]
    assert from_table(table) == questions
    assert from_table(to_table([])) == []


def test_fingerprint_follows_content_and_roles_only(tmp_path: Path) -> None:
    rows = [{"question": f"Q{i}?", "answers": ["a"]} for i in range(10)]
    first = load(tmp_path, rows).fingerprint
    (tmp_path / "moved").mkdir()
    assert load(tmp_path / "moved", rows).fingerprint == first
    assert load(tmp_path, rows, shots=1).fingerprint != first
    rows[4]["answers"] = ["b"]
    assert load(tmp_path, rows).fingerprint != first


@pytest.mark.parametrize(
    ("name", "count", "duplicates"),
    [("nq_open", 14167, 0), ("triviaqa", 8837, 0), ("medmcqa", 4183, 0), ("entityquestions_dev", 22068, 35)],
)
def test_real_files_load(name: str, count: int, duplicates: int) -> None:
    path = REAL / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"real data is not here: {path}")
    loaded = load_questions(QuestionsConfig(source=str(path)), seed=0, shots=5)
    assert len(loaded.questions) == count - loaded.duplicates
    assert duplicates <= loaded.duplicates <= duplicates + 200  # white space and punctuation merge a few more
    assert all(question.answers for question in loaded.questions)
    assert sizes(loaded.questions)["shot"] == 5
    check_disjoint(loaded.questions)


def test_a_question_without_a_group_asks_for_the_fact_of_its_wording() -> None:
    assert Question("a", "Who  wrote IT?", group="g").fact == "g"
    assert Question("a", "Who  wrote IT?").fact == Question("b", "who wrote it").fact == "who wrote it"
