"""Checks before the first stage: refuse settings and questions that a later stage cannot work with.

The checks of a single stage are in its declaration. This file has those of every run, and checks that several stages
declare.
"""

from collections.abc import Callable, Sequence

from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import has_model
from ka2l.errors import DegenerateError
from ka2l.models.loading import pick_device
from ka2l.pipeline.context import Context, prompt_builder
from ka2l.pipeline.identities import judge_key
from ka2l.questions.question import Question


def check_configuration(context: Context, questions: Sequence[Question]) -> None:
    """Refuse a model, device, prompt or setting that a stage of the run cannot use, before anything is written.

    Args:
        context: context of the run.
        questions: at least those of role `shot`.

    Raises:
        ConfigError, ModelError: the message names the setting.
    """
    config = context.config
    if has_model(config):
        # An unknown model is refused here.
        _ = context.resolved
        pick_device(config.model)
    shots = [question for question in questions if question.role == "shot"]
    prompt_builder(config, shots, lambda: context.tokenizer)
    for declared in context.plan.stages.values():
        declared.refuses(config)


def check_questions(context: Context, questions: Sequence[Question]) -> None:
    """Refuse questions that a stage of the run cannot work with, before anything is written.

    Raises:
        DataError: no question of a role, or no answers; the message says what to set.
    """
    for declared in context.plan.stages.values():
        declared.needs(context.config, questions)


def needs_role(role: str, fix: str = "") -> Callable[[RunConfig, Sequence[Question]], None]:
    """The check that at least one question has this role.

    Args:
        role: the role.
        fix: another way to solve it, for the error message.
    """
    what = f"{role}, so the pool is empty" if role == "pool" else role

    def check(config: RunConfig, questions: Sequence[Question]) -> None:
        if not any(question.role == role for question in questions):
            raise DegenerateError(
                f"{config.questions.source}: no question has the role {what}. "
                f"Give questions.roles.{role} a size, or check the column of roles{fix}."
            )

    return check


def check_judge(config: RunConfig) -> None:
    """Refuse a judge that is missing or has no entailment label."""
    if config.measure.judge == "nli":
        from ka2l.models.judges.entailment import check_nli_model

        check_nli_model(config.measure.nli_model, config.measure.equivalence)
    else:
        judge_key(config)
