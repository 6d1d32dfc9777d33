"""Stage `finetune`: LoRA on the labelled questions."""

import math
from typing import Any

from ka2l.common.progress import by_step
from ka2l.config.run_config import RunConfig
from ka2l.models.settings import ModelConfig
from ka2l.pipeline.arms import MAIN, arm_stage
from ka2l.pipeline.content_keys import prompted_model, values
from ka2l.pipeline.context import Context
from ka2l.pipeline.run_directory import Attempt, Written
from ka2l.pipeline.shared.training_questions import training_example, training_questions
from ka2l.pipeline.stage import ANSWER_TOKENS, Cost, Identities, Sizes, Stage
from ka2l.teaching.settings import FinetuneConfig


def finetune(context: Context, attempt: Attempt) -> None:
    """Fine-tune with LoRA on the labelled and replayed questions; continues from its checkpoints."""
    from ka2l.teaching.finetuning.lora import ModelPlace
    from ka2l.teaching.finetuning.lora import finetune as train

    config, arm = context.config, attempt.arm
    questions = training_questions(context, arm)
    examples = [training_example(context, question) for question in questions]
    replayed = sum(question.source == "replayed" for question in questions)
    # The trainer loads a copy of its own.
    context.release()
    model: ModelConfig = config.model
    with attempt.begin() as record:
        with context.reporter.bar(attempt.stage, training_steps(len(examples), config.finetune)) as advance:
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
                attempt.file("adapter"),
                attempt.file("checkpoints"),
                seed=config.teaching_seed,
                special_tokens=config.prompt.template == "plain",
                on_step=by_step(advance),
            )
        record.counts = {"examples": len(examples), "steps": result.steps}
        if replayed:
            record.counts["replayed"] = replayed
        record.counts["trainable_parameters"] = result.trainable_parameters
        record.tokens = {"trained": result.tokens}
        record.facts = {"train_loss": result.train_loss, "last_loss": result.last_loss}


def training_steps(examples: int, config: FinetuneConfig) -> int:
    """Optimizer steps of a fine-tuning on one device."""
    batches = math.ceil(examples / config.batch_size)
    return config.epochs * math.ceil(batches / config.gradient_accumulation)


def _reads(config: RunConfig, arm: str) -> list[str]:
    return [arm_stage("annotate", arm), *([arm_stage("replay", arm)] if config.finetune.replay else [])]


def _settings(config: RunConfig, _arm: str, known: Identities) -> list[Any]:
    settings = values(config.finetune, without=("save_steps", "seed", "replay"))
    return [prompted_model(config, known), settings, config.teaching_seed]


def _costs(sizes: Sizes, arm: str) -> Cost:
    """Forward and backward through frozen weights: twice a forward pass, and a little for the adapter."""
    examples = sizes.labelled(arm == MAIN) + sizes.replayed
    tokens = sizes.config.finetune.epochs * examples * (sizes.lengths.teaching + ANSWER_TOKENS)
    return Cost(examples, tokens, weight=2.2)


STAGE = Stage(
    "finetune",
    verb="finetune",
    work=finetune,
    reads=_reads,
    settings=_settings,
    writes=(Written("adapter"), Written("checkpoints", working=True)),
    costs=_costs,
)
