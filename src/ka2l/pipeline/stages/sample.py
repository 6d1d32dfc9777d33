"""Stage `sample`: answers to the probe questions, from whoever gives them, and the states of every layer.

Stage `pool_answers` asks the pool in the same way, where a strategy reads what only samples tell; nobody needs states.

    ka2l sample runs/mine sample.n=10        # after sample.n=5: asks for samples 6 to 10 only

Work is cut into parts of questions that miss the same samples; a part is asked to its end before the next begins, so
that a run continued ends with the same files to the byte. The first part of a question brings its states; parts by
which the number of samples grows later do not.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ka2l.common import atomic_files
from ka2l.config.run_limits import has_model
from ka2l.errors import RunError
from ka2l.models.imported_answers import ImportedAnswers
from ka2l.pipeline.context import Context, need_questions
from ka2l.pipeline.run_directory import OUTPUTS
from ka2l.pipeline.shared.answer_source import answering, ask, check_imported, count_tokens
from ka2l.pipeline.shared.artifact_tables import FIRST, answer_table, answered, write_states
from ka2l.questions.question import Question


class _Task(NamedTuple):
    """Who is asked for what."""

    role: str
    first: int  # sample number: 0 is the low-temperature one
    answers: str  # folder
    states: str  # folder; empty: no states


def sample(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """N answers and one low-temperature answer per probe question, those that are not there yet."""
    states = "states" if has_model(context.config) else ""
    _sample(context, stage, key, inputs, _Task("probe", 0, "answers", states))


def pool_answers(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """N answers per pool question, those that are not there yet."""
    _sample(context, stage, key, inputs, _Task("pool", 1, "pool_answers", ""))


def _sample(context: Context, stage: str, key: str, inputs: dict[str, str], task: _Task) -> None:
    config, run = context.config, context.run
    questions = context.questions(task.role)
    need_questions(questions, task.role, stage)
    engine = answering(context, states=bool(task.states))
    wanted = _wanted(context, engine.sampler, questions, task)
    folder, states = run.file(task.answers), run.file(task.states) if task.states else None
    old = run.stages.get(stage)
    if config.sample.engine == "server" and old is not None and old.key != key:
        # Beginning removes the old answers, so first see that there will be new ones. What comes is paid for and kept.
        ask(context, engine, questions[:1], (task.first,), lambda _count: None)
    with run.stage(stage, key, inputs) as record:
        have = answered(folder, states)
        todo = _missing(questions, wanted, have)
        with context.reporter.bar(stage, len(wanted), len(wanted) - sum(map(len, todo.values()))) as advance:
            for numbers, group in todo.items():
                for start in range(0, len(group), config.sample.part_size):
                    chunk = group[start : start + config.sample.part_size]
                    rows = ask(context, engine, chunk, numbers, advance)
                    part = atomic_files.next_part(folder, ".parquet")
                    # The states go first: the part of answers is the mark that both are there.
                    if FIRST in numbers and states is not None:
                        write_states(states / f"{part.stem}.safetensors", rows)
                    atomic_files.write_table(part, answer_table(rows, numbers))
                    for row in rows:
                        have.setdefault(row.question_id, set()).update(numbers)
                    count_tokens(record, engine)
                    run.checkpoint(stage)
        record.counts = {"questions": len(wanted), "answers": sum(len(have[i]) for i in wanted)}
        counts = {name: len(atomic_files.parts(run.file(name), "")) for name in OUTPUTS[stage]}
        record.facts = {"samples": min(max(have[i]) for i in wanted), "parts": counts}


def _wanted(
    context: Context, sampler: Any, questions: Sequence[Question], task: _Task
) -> dict[str, tuple[int, ...]]:
    """The sample numbers every question should have: up to N, and of probe questions 0, the low-temperature one."""
    n = context.config.sample.n
    if not isinstance(sampler, ImportedAnswers):
        return dict.fromkeys((question.id for question in questions), tuple(range(task.first, n + 1)))
    if task.role == "pool":
        check_imported(context, sampler, [question.id for question in questions], FIRST)
    wanted = {q.id: tuple(k for k in sampler.numbers(q.id) if task.first <= k <= n) for q in questions}
    wanted = {question_id: numbers for question_id, numbers in wanted.items() if numbers}
    if not wanted:
        raise RunError(
            f"{context.run.path}: none of the questions has imported answers. Take some in: "
            f"ka2l import {context.run.path} answers.jsonl"
        )
    most = min(max(numbers) for numbers in wanted.values())
    if most < n:
        raise RunError(
            f"{context.run.path}: the imported answers are {most} a question, and sample.n is {n}. "
            f"Set sample.n={most}, or import more."
        )
    return wanted


def _missing(
    questions: Sequence[Question], wanted: dict[str, tuple[int, ...]], have: dict[str, set[int]]
) -> dict[tuple[int, ...], list[Question]]:
    """The questions that miss samples, by which ones; those never asked come first."""
    groups: dict[tuple[int, ...], list[Question]] = {}
    for question in questions:
        numbers = tuple(k for k in wanted.get(question.id, ()) if k not in have.get(question.id, set()))
        if numbers:
            groups.setdefault(numbers, []).append(question)
    return dict(sorted(groups.items()))
