"""Checks before the first stage: refuse settings and inputs that a later stage cannot work with."""

from collections.abc import Sequence

from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import has_model
from ka2l.errors import ConfigError, DataError, DegenerateError
from ka2l.models.loading import pick_device
from ka2l.pipeline.arms import arms, strategy_of
from ka2l.pipeline.context import Context, prompt_builder
from ka2l.pipeline.identities import judge_key
from ka2l.pipeline.stage_graph import all_stages, judges
from ka2l.questions.question import Question


def _check_roles(config: RunConfig, questions: Sequence[Question]) -> None:
    """Refuse, before anything is written, questions that a later stage could not work with."""
    stages = all_stages(config)
    needed = {"probe": "sample", "pool": "map", "eval": "evaluate", "decoder": "decoder_states"}
    more = dict.fromkeys(needed, "")
    more["decoder"] = ", or take a decoder trained before (decoder.pretrained); for GeoNames also "
    more["decoder"] += "questions.geonames.decoder=7000"
    for role in (role for role, stage in needed.items() if stage in stages):
        if not any(question.role == role for question in questions):
            raise DegenerateError(
                f"{config.questions.source}: no question has the role {role}{', so the pool is empty' * (role == 'pool')}. "
                f"Give questions.roles.{role} a size, or check the column of roles{more[role]}."
            )
    buys = "annotate" in stages and config.annotate.annotator == "gold"
    if buys and not any(q.answers for q in questions if q.role == "pool"):
        raise DataError(
            f"{config.questions.source}: no question of the pool has an answer, so there is no gold to teach. Name the "
            "column of answers (questions.columns.answers), or let people answer: annotate.annotator=file."
        )


def check_means(context: Context, questions: Sequence[Question]) -> None:
    """Refuse, before anything is written, a model, device, prompt or judge that later stages could not use."""

    config = context.config
    if has_model(config):
        _ = context.resolved  # an unknown model ends here
        pick_device(config.model)
    shots = [question for question in questions if question.role == "shot"]
    prompt_builder(config, shots, lambda: context.tokenizer)
    if judges(config):
        check_judge(config)
    _check_signals(config)


def _check_signals(config: RunConfig) -> None:
    """Refuse a strategy whose signal could not be computed here."""
    stages, strategies = (
        all_stages(config),
        " and ".join(dict.fromkeys(strategy_of(config, a) for a in arms(config))),
    )
    if "pool_likelihood" in stages and config.sample.engine == "server" and not config.server.logprobs:
        raise ConfigError(
            f"select.strategy {strategies}: the likelihood of answers needs their token log-probabilities, and "
            "server.logprobs=false asks for none. Set server.logprobs=true, or choose another strategy."
        )
    fitted = config.measure.judge == "embedding" and config.measure.embedding_threshold == "fit"
    if "pool_entropy" in stages and fitted and config.map.probe:
        raise ConfigError(
            f"select.strategy {strategies}: measure.embedding_threshold=fit is fitted on the probe questions, and with "
            "map.probe none are asked. Give a cosine, such as measure.embedding_threshold=0.7."
        )


def check_judge(config: RunConfig) -> None:
    """Refuse, before anything is written, a judge that is not there or cannot say what it must."""
    if config.measure.judge == "nli":
        from ka2l.models.judges.entailment import check_nli_model

        check_nli_model(config.measure.nli_model, config.measure.equivalence)
    else:
        judge_key(config)
