"""Stages `sample` and `pool_answers`: answers to the probe questions with the hidden states of every layer; pool
answers.

    ka2l sample runs/mine sample.n=10        # after sample.n=5: only samples 6 to 10

The pool is sampled only if a strategy needs its answers, and without hidden states. The work is cut into parts of
questions that miss the same samples. A part is finished before the next begins, so that a continued run ends with the
same files, byte for byte. The first part of a question has its states; parts that are added when the number of samples
grows have not.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ka2l.common import atomic_files
from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import has_model, samples_from_server, samples_locally
from ka2l.errors import RunError
from ka2l.models.imported_answers import ImportedAnswers
from ka2l.pipeline.content_keys import answers, pool_answers, prompted_model
from ka2l.pipeline.context import Context, need_questions
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.preflight import needs_role
from ka2l.pipeline.run_directory import Attempt, Written
from ka2l.pipeline.shared.answer_source import answering, ask, check_imported, count_tokens
from ka2l.pipeline.shared.artifact_tables import FIRST, answer_table, finished_samples, write_states
from ka2l.pipeline.stage import Cost, Identities, Sizes, Stage


class _Task(NamedTuple):
    """The questions to sample, the first sample, and where the results go."""

    role: str
    # Number of the first sample; 0 is the low-temperature answer.
    first: int
    # Folder of the answers.
    answers: str
    # Folder of the hidden states; empty: none are read.
    states: str


def sample_probe(context: Context, attempt: Attempt) -> None:
    """Sample N answers and one low-temperature answer per probe question, unless they exist already."""
    states = "states" if has_model(context.config) else ""
    _sample(context, attempt, _Task("probe", 0, "answers", states))


def sample_pool(context: Context, attempt: Attempt) -> None:
    """Sample N answers per pool question, unless they exist already."""
    _sample(context, attempt, _Task("pool", 1, "pool_answers", ""))


def _sample(context: Context, attempt: Attempt, task: _Task) -> None:
    config, run = context.config, context.run
    # Only the ids are in memory: the texts are read part by part.
    ids = context.ids(task.role)
    need_questions(len(ids), task.role, attempt.stage)
    engine = answering(context, states=bool(task.states))
    wanted = _wanted(context, engine.sampler, ids, task)
    old = run.stages.get(attempt.stage)
    if samples_from_server(config) and old is not None and old.key != attempt.key:
        # Beginning the stage removes the old answers, so check first that the server answers. This answer is paid for
        # and is kept in paid.sqlite.
        first = next(context.question_batches(task.role, 1))
        ask(context, engine, first, (task.first,), lambda _count: None)
    folder, states = run.file(task.answers), run.file(task.states) if task.states else None
    with attempt.begin() as record:
        have = finished_samples(folder, states)
        todo = _missing_samples(ids, wanted, have)
        done = len(wanted) - sum(map(len, todo.values()))
        with context.reporter.bar(attempt.stage, len(wanted), done) as advance:
            for numbers, missing in todo.items():
                for chunk in context.question_batches(task.role, config.sample.part_size, missing.__contains__):
                    rows = ask(context, engine, chunk, numbers, advance)
                    part = atomic_files.next_part(folder, ".parquet")
                    # The states are written first: once the part of answers exists, both are complete.
                    if FIRST in numbers and states is not None:
                        write_states(states / f"{part.stem}.safetensors", rows)
                    atomic_files.write_table(part, answer_table(rows, numbers))
                    for row in rows:
                        have.setdefault(row.question_id, set()).update(numbers)
                    count_tokens(record, engine)
                    attempt.checkpoint()
        record.counts = {"questions": len(wanted), "answers": sum(len(have[i]) for i in wanted)}
        record.facts = {"samples": min(max(have[i]) for i in wanted), "parts": attempt.part_counts()}


def _wanted(context: Context, sampler: Any, ids: Sequence[str], task: _Task) -> dict[str, tuple[int, ...]]:
    """The numbers of the samples each question should have: 1 to N, and for probe questions also 0, the low-temperature
    one.

    Raises:
        RunError: imported answers are missing.
    """
    n = context.config.sample.n
    if not isinstance(sampler, ImportedAnswers):
        return dict.fromkeys(ids, tuple(range(task.first, n + 1)))
    if task.role == "pool":
        check_imported(context, sampler, ids, FIRST)
    wanted = {i: tuple(k for k in sampler.numbers(i) if task.first <= k <= n) for i in ids}
    wanted = {question_id: numbers for question_id, numbers in wanted.items() if numbers}
    if not wanted:
        raise RunError(
            f"{context.run.path}: none of the questions has imported answers. Import some: "
            f"ka2l import {context.run.path} answers.jsonl"
        )
    most = min(max(numbers) for numbers in wanted.values())
    if most < n:
        raise RunError(
            f"{context.run.path}: there are {most} imported answers per question, and sample.n is {n}. "
            f"Set sample.n={most}, or import more."
        )
    return wanted


def _missing_samples(
    ids: Sequence[str], wanted: dict[str, tuple[int, ...]], have: dict[str, set[int]]
) -> dict[tuple[int, ...], set[str]]:
    """The questions that miss samples, by the numbers of these; questions without any sample come first."""
    groups: dict[tuple[int, ...], set[str]] = {}
    for question_id in ids:
        existing = have.get(question_id, set())
        numbers = tuple(k for k in wanted.get(question_id, ()) if k not in existing)
        if numbers:
            groups.setdefault(numbers, set()).add(question_id)
    return dict(sorted(groups.items()))


def _complete(config: RunConfig, record: StageRecord) -> bool:
    """Whether there are N samples; if not, more are added under the same key."""
    return int(record.facts.get("samples", 0)) >= config.sample.n


def _settings(config: RunConfig, _arm: str, known: Identities) -> list[Any]:
    states = [prompted_model(config, known), config.probe.position] if has_model(config) else []
    return [answers(config, known), states]


def _costs(sizes: Sizes, _arm: str) -> Cost:
    """The N answers and the low-temperature one. If the local model does not sample them, it only reads the states."""
    cost = sizes.sampling("sample", "probe", sizes.config.sample.n + 1, temperatures=2)
    if samples_locally(sizes.config):
        return cost
    return cost._replace(tokens=cost.questions * sizes.lengths.own)


SAMPLE = Stage(
    "sample",
    verb="sample",
    work=sample_probe,
    reads=lambda config, arm: ["load"],
    settings=_settings,
    writes=(Written("answers", parts=True), Written("states", parts=True)),
    complete=_complete,
    needs=needs_role("probe"),
    costs=_costs,
)
POOL_ANSWERS = Stage(
    "pool_answers",
    verb="map",
    work=sample_pool,
    reads=lambda config, arm: ["load"],
    settings=lambda config, arm, known: pool_answers(config, known, "low_temperature"),
    writes=(Written("pool_answers", parts=True),),
    complete=_complete,
    costs=lambda sizes, arm: sizes.sampling("pool_answers", "pool", sizes.config.sample.n),
)
