"""Stage `replay`: known questions that fine-tuning repeats with the model's own answers, beside the labelled ones.

Fine-tuning on unknown facts makes a model forget known ones (arXiv 2405.05904). Known questions need no label, because
the model answers them itself: they cost one generated answer each, and training time.
"""

from typing import Any

from ka2l.common import atomic_files
from ka2l.config.run_config import RunConfig
from ka2l.models.interface import Prompt
from ka2l.pipeline.arms import arm_stage, own_probe
from ka2l.pipeline.content_keys import given_probe, prompted_model
from ka2l.pipeline.context import Context, add_usage
from ka2l.pipeline.run_directory import Attempt, Written
from ka2l.pipeline.shared.artifact_tables import as_table
from ka2l.pipeline.shared.training_questions import REPLAYED, all_questions, read_annotations
from ka2l.pipeline.stage import Cost, Identities, Stage
from ka2l.questions.question import rank


def replay(context: Context, attempt: Attempt) -> None:
    """Ask the model questions of the pool that the map calls known and that were not selected: a uniform draw by seed.

    They are `finetune.replay` times as many as the labels, or all if there are fewer. Each is asked once, with the
    sensing prompt at `sample.low_temperature`. Empty answers, and answers that were cut off, are left out.
    """
    config, run, arm = context.config, context.run, attempt.arm
    labelled = set(read_annotations(context, arm))
    facts = {question.fact for question in all_questions(context, labelled).values()}
    table = atomic_files.read_table(run.file("knowledge_map.parquet"), ["question_id", "unknown"]).to_pydict()
    called_known = {i for i, unknown in zip(*table.values(), strict=True) if not unknown}
    # A labelled fact is not repeated in another wording with the answer of the model.
    known = [
        question.id
        for batch in context.question_batches("pool", 4096)
        for question in batch
        if question.id in called_known and question.fact not in facts
    ]
    seed = config.teaching_seed
    wanted = round(config.finetune.replay * len(labelled))
    drawn = sorted(known, key=lambda i: rank(seed, "replay", i))[:wanted]
    if len(drawn) < wanted:
        context.reporter.say(
            f"replay: finetune.replay={config.finetune.replay:g} asks for {wanted} known questions, and the map has "
            f"{len(drawn)} that were not selected; all of them are used."
        )
    questions = context.questions_by_id(set(drawn))
    with attempt.begin() as record:
        model = context.prepared_model()
        prompts = [Prompt(i, context.prompts.sensing(questions[i].question)) for i in drawn]
        settings = config.sample
        with context.reporter.bar(attempt.stage, len(prompts)) as advance:
            answers = {}
            for result in model.sample(
                prompts,
                {0: settings.low_temperature},
                seed=config.seed,
                max_new_tokens=settings.max_new_tokens,
            ):
                answers[result.question_id] = result.answers[0]
                advance(1)
        add_usage(record, model)
        rows = [
            {"question_id": i, "answer": answers[i].text}
            for i in drawn
            if answers[i].text.strip() and answers[i].finish_reason == "stop"
        ]
        atomic_files.write_table(run.file(REPLAYED, arm), as_table(rows))
        record.counts = {"replayed": len(rows)}


def _settings(config: RunConfig, _arm: str, known: Identities) -> list[Any]:
    sampling = [config.sample.low_temperature, config.sample.max_new_tokens, config.seed]
    asked = [config.finetune.replay, sampling, given_probe(config, known)]
    return [prompted_model(config, known), *asked, config.teaching_seed]


STAGE = Stage(
    "replay",
    verb="annotate",
    work=replay,
    reads=lambda config, arm: ["load", *own_probe(config), "map", arm_stage("annotate", arm)],
    settings=_settings,
    writes=(Written(REPLAYED),),
    costs=lambda sizes, arm: Cost(sizes.replayed, sizes.replayed * (sizes.lengths.own + sizes.answer), prefix=True),
)
