"""Stage `evaluate`: ask the base model and the tuned ones, and compare what they get right."""

from collections.abc import Iterator
from typing import Any

from ka2l.common import atomic_files
from ka2l.config.run_config import RunConfig
from ka2l.evaluation.evaluation_json import to_json
from ka2l.evaluation.protocol import ArmSelection, best_base_prompt, evaluate
from ka2l.evaluation.question_sets import Answers, QuestionRow, answers_of, asked_ids, evaluation_sets
from ka2l.pipeline.arms import arm_stage, arms, strategy_of
from ka2l.pipeline.content_keys import prompted_model, values
from ka2l.pipeline.context import Context
from ka2l.pipeline.preflight import needs_role
from ka2l.pipeline.run_directory import Attempt, Written
from ka2l.pipeline.shared.evaluation_answers import ask, prediction_table
from ka2l.pipeline.shared.training_questions import all_questions, read_annotations, replayed
from ka2l.pipeline.stage import ANSWER_TOKENS, Cost, Identities, Sizes, Stage


def evaluate_models(context: Context, attempt: Attempt) -> None:
    """Ask the base model and every tuned one; compare their answers."""
    config, run = context.config, context.run
    given = {i: answers for arm in arms(config) for i, answers in read_annotations(context, arm).items()}
    repeated = {known.question.id for arm in arms(config) for known in replayed(context, arm)}
    labelled = all_questions(context, {*given, *repeated})
    answers = {i: tuple(dict.fromkeys((*own, *labelled[i].answers))) for i, own in given.items()}
    # Only the questions that are asked are held; the pool is streamed.
    ids = asked_ids(_rows(context, answers), labelled, config.evaluate.unbought, config.seed)
    questions = all_questions(context, ids)
    selections = {strategy_of(config, arm): _arm_selection(context, arm) for arm in arms(config)}
    labelled_anywhere = {i for arm in selections.values() for i in arm.bought} | repeated
    sets = {
        name: evaluation_sets(questions, arm.bought, config.evaluate, config.seed, answers, labelled_anywhere)
        for name, arm in selections.items()
    }
    with attempt.begin() as record:
        held_out = next(iter(sets.values()))["held_out"]
        everything = list(
            dict.fromkeys(item for by_set in sets.values() for items in by_set.values() for item in items)
        )
        predictions = ask(context, attempt, "base:sensing", held_out)
        predictions += ask(context, attempt, "base:teaching", held_out)
        best = best_base_prompt(predictions, questions, answers, config.measure.correct)
        held = set(held_out)
        rest = [item for item in everything if item not in held]
        predictions += ask(context, attempt, f"base:{best}", rest, part=f"base-{best}-rest")
        for arm in arms(config):
            name = strategy_of(config, arm)
            items = list(dict.fromkeys(item for group in sets[name].values() for item in group))
            predictions += ask(context, attempt, name, items, adapter=run.file("adapter", arm))
        result = evaluate(
            predictions,
            selections,
            questions,
            answers,
            config.evaluate,
            config.measure.correct,
            config.seed,
            repeated,
        )
        atomic_files.write_table(run.file("predictions.parquet"), prediction_table(predictions))
        atomic_files.write_json(run.file("evaluation.json"), to_json(result))
        record.counts = {"answers": len(predictions)}


def _rows(context: Context, answers: Answers) -> Iterator[QuestionRow]:
    """What the draw of unlabelled questions needs of every question of the run."""
    for batch in context.question_batches(None, 4096):
        for question in batch:
            answered = bool(answers_of(question, answers))
            yield QuestionRow(question.id, question.role, question.fact, answered)


def _arm_selection(context: Context, arm: str) -> ArmSelection:
    table = atomic_files.read_table(context.run.file("annotations.parquet", arm)).to_pydict()
    return ArmSelection(strategy_of(context.config, arm), table["question_id"], float(sum(table["cost"])))


def _reads(config: RunConfig, _arm: str) -> list[str]:
    return ["load", *(arm_stage(name, arm) for arm in arms(config) for name in ("annotate", "finetune"))]


def _settings(config: RunConfig, _arm: str, known: Identities) -> list[Any]:
    return [prompted_model(config, known), values(config.evaluate), config.measure.correct, config.seed]


def _costs(sizes: Sizes, _arm: str) -> Cost:
    """The base model answers the held-out questions with both prompts and the rest with one; every arm answers all."""
    settings, n_arms, held_out = sizes.config.evaluate, len(arms(sizes.config)), sizes.of_role("eval")
    rest = sizes.selected * (1 + settings.rewordings)
    rest += min(settings.unbought, sizes.of_role("pool") - sizes.selected)
    asked = 2 * held_out + rest * n_arms + (held_out + rest) * n_arms
    answer = min(ANSWER_TOKENS, settings.max_new_tokens)
    return Cost(asked, asked * (sizes.lengths.teaching + answer), prefix=True)


STAGE = Stage(
    "evaluate",
    verb="evaluate",
    work=evaluate_models,
    reads=_reads,
    settings=_settings,
    writes=(
        Written("evaluation.json"),
        Written("predictions.parquet"),
        Written("predictions", working=True),
    ),
    needs=needs_role("eval"),
    costs=_costs,
    shows=lambda context, done: {"evaluation": atomic_files.read_json(context.run.file("evaluation.json"))},
)
