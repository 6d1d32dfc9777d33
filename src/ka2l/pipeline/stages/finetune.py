"""Stage `finetune`: LoRA on the labelled questions."""

import math

from ka2l.common.progress import by_step
from ka2l.models.settings import ModelConfig
from ka2l.pipeline.arms import split_stage
from ka2l.pipeline.context import Context
from ka2l.pipeline.shared.taught_questions import all_questions, read_annotations, replayed
from ka2l.teaching.settings import FinetuneConfig


def finetune(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """Teach the bought questions with LoRA; continues from its checkpoints."""
    from ka2l.teaching.finetuning.lora import Example, ModelPlace
    from ka2l.teaching.finetuning.lora import finetune as train

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
                ModelPlace(
                    context.resolved.path,
                    context.resolved.revision,
                    model.dtype,
                    model.device,
                    model.trust_remote_code,
                ),
                examples,
                config.finetune,
                run.file("adapter", arm),
                run.file("checkpoints", arm),
                seed=config.teaching_seed,
                special_tokens=config.prompt.template == "plain",
                on_step=by_step(advance),
            )
        record.counts = {"examples": len(examples), "steps": result.steps}
        if own:
            record.counts["replayed"] = len(own)
        record.counts["trainable_parameters"] = result.trainable_parameters
        record.tokens = {"trained": result.tokens}
        record.facts = {"train_loss": result.train_loss, "last_loss": result.last_loss}


def training_steps(examples: int, config: FinetuneConfig) -> int:
    """Optimizer steps of a fine-tuning on one device."""
    batches = math.ceil(examples / config.batch_size)
    return config.epochs * math.ceil(batches / config.gradient_accumulation)
