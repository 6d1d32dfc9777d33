"""From the map to a better model: select, finetune, evaluate. Each runs once per arm. Answers come in `annotating`."""

import math

from ka2l import files
from ka2l.config import FinetuneConfig, ModelConfig
from ka2l.evaluation.protocol import ArmSelection, best_base_prompt, evaluate, evaluation_sets
from ka2l.evaluation.serialize import to_json
from ka2l.pipeline.artifacts import as_table
from ka2l.pipeline.asking import ask, prediction_table
from ka2l.pipeline.context import Context
from ka2l.pipeline.replay import replayed
from ka2l.pipeline.signals import pool_signals
from ka2l.pipeline.taught import all_questions, read_annotations
from ka2l.progress import by_step
from ka2l.selection.strategies import needs, select
from ka2l.stages import arms, options_of, strategy_of
from ka2l.store import split_stage


def select_questions(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """Choose what to buy with the budget."""
    config, run = context.config, context.run
    _, arm = split_stage(stage)
    strategy = strategy_of(config, arm)
    chosen, options = config.select, options_of(config)
    signals = pool_signals(context, needs(strategy, options))
    seed = config.seed if chosen.seed is None else chosen.seed
    if config.select.budget > len(signals.ids):
        context.reporter.say(
            f"select: the budget of {config.select.budget} is more than the pool of {len(signals.ids)}; all of it is taken."
        )
    with run.stage(stage, key, inputs) as record:
        selection = select(strategy, signals, chosen.budget, seed, options)
        rows = [
            {"question_id": i, "rank": rank, "score": score, "strategy": strategy, "reason": reason}
            for rank, (i, score, reason) in enumerate(zip(*selection, strict=True), start=1)
        ]
        files.write_table(run.file("selection.parquet", arm), as_table(rows))
        record.counts = {"bought": len(rows), "pool": len(signals.ids)}


def finetune(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """Teach the bought questions with LoRA; continues from its checkpoints."""
    from ka2l.teaching.finetune import Example
    from ka2l.teaching.finetune import finetune as train

    config, run = context.config, context.run
    _, arm = split_stage(stage)
    annotations = read_annotations(context, arm)
    questions = all_questions(context, set(annotations))
    prompts = context.prompts
    examples = [
        Example(prompts.teaching(questions[i].question), prompts.completion(answers[0]), i)
        for i, answers in annotations.items()
    ]
    own = replayed(context, arm)
    examples += [
        Example(
            prompts.teaching(known.question.question), prompts.completion(known.answer), known.question.id
        )
        for known in own
    ]
    context.release()  # the trainer loads its own copy
    model: ModelConfig = config.model
    with run.stage(stage, key, inputs) as record:
        with context.reporter.bar(stage, training_steps(len(examples), config.finetune)) as advance:
            result = train(
                context.resolved.path,
                examples,
                config.finetune,
                run.file("adapter", arm),
                run.file("checkpoints", arm),
                seed=config.seed if config.finetune.seed is None else config.finetune.seed,
                dtype=model.dtype,
                device=model.device,
                revision=context.resolved.revision,
                trust_remote_code=model.trust_remote_code,
                special_tokens=config.prompt.template == "plain",
                on_step=by_step(advance),
            )
        record.counts = {"examples": len(examples), "steps": result.steps}
        if own:
            record.counts["replayed"] = len(own)
        record.counts["trainable_parameters"] = result.trainable_parameters
        record.tokens = {"trained": result.tokens}
        record.facts = {"train_loss": result.train_loss, "last_loss": result.last_loss}


def evaluate_models(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """Ask the base model and every tuned one, and say what was learned and what was forgotten."""
    config, run = context.config, context.run
    given = {i: answers for arm in arms(config) for i, answers in read_annotations(context, arm).items()}
    questions = all_questions(context)
    answers = {i: tuple(dict.fromkeys((*own, *questions[i].answers))) for i, own in given.items()}
    selections = {strategy_of(config, arm): _arm_selection(context, arm) for arm in arms(config)}
    beside = {known.question.id for arm in arms(config) for known in replayed(context, arm)}
    all_bought = {i for arm in selections.values() for i in arm.bought} | beside
    sets = {
        name: evaluation_sets(questions, arm.bought, config.evaluate, config.seed, answers, all_bought)
        for name, arm in selections.items()
    }
    with run.stage(stage, key, inputs) as record:
        held_out = next(iter(sets.values()))["held_out"]
        everything = list(
            dict.fromkeys(item for by_set in sets.values() for items in by_set.values() for item in items)
        )
        predictions = ask(context, record, "base:sensing", held_out)
        predictions += ask(context, record, "base:teaching", held_out)
        best = best_base_prompt(predictions, questions, answers, config.measure.correct)
        held = set(held_out)
        rest = [item for item in everything if item not in held]
        predictions += ask(context, record, f"base:{best}", rest, part=f"base-{best}-rest")
        for arm in arms(config):
            name = strategy_of(config, arm)
            items = list(dict.fromkeys(item for group in sets[name].values() for item in group))
            predictions += ask(context, record, name, items, adapter=run.file("adapter", arm))
        result = evaluate(
            predictions,
            selections,
            questions,
            answers,
            config.evaluate,
            config.measure.correct,
            config.seed,
            beside,
        )
        files.write_table(run.file("predictions.parquet"), prediction_table(predictions))
        files.write_json(run.file("evaluation.json"), to_json(result))
        record.counts = {"answers": len(predictions)}


def training_steps(examples: int, config: FinetuneConfig) -> int:
    """Optimizer steps of a fine-tuning on one device."""
    batches = math.ceil(examples / config.batch_size)
    return config.epochs * math.ceil(batches / config.gradient_accumulation)


def _arm_selection(context: Context, arm: str) -> ArmSelection:
    table = files.read_table(context.run.file("annotations.parquet", arm)).to_pydict()
    return ArmSelection(strategy_of(context.config, arm), table["question_id"], float(sum(table["cost"])))
