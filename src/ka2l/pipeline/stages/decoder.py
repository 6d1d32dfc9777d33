"""Stages `decoder_states` and `decoder`: the hidden states the decoder is trained on, and its training.

    ka2l augment runs/mine augment.per_question=8

The decoder decodes the same hidden state that the probe reads: the same prompt, position and layer. They are in its
card, and a decoder of another state is refused.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ka2l.common.progress import by_step
from ka2l.config.run_config import RunConfig
from ka2l.errors import DegenerateError
from ka2l.models.interface import Prompt
from ka2l.pipeline.arms import own_probe
from ka2l.pipeline.content_keys import prompted_model, values
from ka2l.pipeline.context import Context, need_questions
from ka2l.pipeline.identities import decoder_key
from ka2l.pipeline.preflight import needs_role
from ka2l.pipeline.run_directory import Attempt, Written
from ka2l.pipeline.shared.artifact_tables import compact, read_signal
from ka2l.pipeline.shared.part_passes import over_role
from ka2l.pipeline.shared.run_decoder import new_network, probed_state, probed_state_card
from ka2l.pipeline.stage import Cost, Identities, Sizes, Stage
from ka2l.questions.question import Question, rank

STATES, TRAINING = "decoder_states", "decoder_training"


def decoder_states(context: Context, attempt: Attempt) -> None:
    """Compute the hidden state of every question of role `decoder` at the probe's layer and position."""
    run = context.run
    layer, position = probed_state(context)
    need_questions(run.stages["load"].counts.get("decoder", 0), "decoder", attempt.stage)
    model = context.prepared_model()

    def states(prompts: list[Prompt]) -> dict[str, NDArray[Any]]:
        return {"state": compact(model.states(prompts, layer, position=position))}

    with attempt.begin() as record:
        folder = run.file(STATES)
        over_role(context, attempt, "decoder", model, folder, states)
        record.counts = {"questions": run.stages["load"].counts["decoder"], "layer": layer}
        record.facts = {"parts": attempt.part_counts(), "position": position}


def train_decoder(context: Context, attempt: Attempt) -> None:
    """Train the decoder on stored states. The language model is in memory only if it is itself the decoder."""
    from ka2l.augmentation.decoder import Decoder
    from ka2l.augmentation.decoder_training import train
    from ka2l.augmentation.length_batches import count_steps
    from ka2l.augmentation.state_scaling import check_finite, standardisation
    from ka2l.augmentation.validation_checks import DecoderExamples

    config, run = context.config, context.run
    ids, stored = read_signal(run.file(STATES), "state")
    states = stored.astype(np.float32)
    questions = context.questions_by_id(set(ids))
    validation = _validation_rows([questions[i] for i in ids], config.decoder.validation, config.seed)
    texts = np.array([questions[i].question for i in ids], dtype=object)
    check_finite(states, ids)
    mean, scale = standardisation(states[~validation])
    standardised = (states - mean) / scale
    # The decoder is, or needs, a model of its own.
    context.release()
    # Made before the stage begins, because that may remove an earlier decoder: `decoder.t5` may be no usable model.
    network = new_network(config, states.shape[1])
    with attempt.begin() as record:
        lengths = [len(network.encode(text)) for text in texts[~validation]]
        steps = count_steps(lengths, config.decoder.batch_tokens, config.seed, config.decoder.epochs)
        with context.reporter.bar(attempt.stage, steps) as advance:
            trained = train(
                network,
                DecoderExamples(standardised[~validation], texts[~validation].tolist()),
                DecoderExamples(standardised[validation], texts[validation].tolist()),
                config.decoder,
                run.file(TRAINING),
                seed=config.seed,
                fingerprint=attempt.key,
                on_step=by_step(advance),
                say=context.reporter.say,
            )
        card = {
            **_card(context, states.shape[1]),
            "trained_on": int((~validation).sum()),
            "validation": int(validation.sum()),
            "quality": trained.quality._asdict(),
            # Without the seconds, so that the card is the same after an interruption. They are in the manifest.
            "history": [{k: v for k, v in check.items() if k != "seconds"} for check in trained.history],
        }
        Decoder(network, mean, scale, card).save_pretrained(run.file("decoder"))
        record.counts = {"trained_on": card["trained_on"], "steps": trained.steps, "best": trained.best_step}
        record.tokens = {"trained": trained.tokens}
        record.facts = {"quality": card["quality"], "kind": network.kind}
        record.facts["places"] = {config.decoder.t5: decoder_key(config)} if config.decoder.t5 else {}


def _validation_rows(questions: list[Question], size: int, seed: int) -> NDArray[np.bool_]:
    """Which questions are used for validation: whole groups in the order of a hash, so that wordings of a fact stay
    together.

    Raises:
        DegenerateError: too few questions, or too few groups.
    """
    if len(questions) < 2 * size:
        raise DegenerateError(
            f"A decoder needs more questions: {len(questions)} have the role decoder, and decoder.validation={size} of "
            "them would be used for validation. Increase questions.roles.decoder, or decrease decoder.validation."
        )
    names = sorted({question.group for question in questions}, key=lambda name: rank(seed, "decoder", name))
    sizes: dict[str, int] = {}
    for question in questions:
        sizes[question.group] = sizes.get(question.group, 0) + 1
    chosen: set[str] = set()
    count = 0
    for name in names:
        if count >= size:
            break
        chosen.add(name)
        count += sizes[name]
    if len(chosen) == len(names):
        raise DegenerateError(
            f"The {len(questions)} questions of role decoder are in {len(names)} groups, and no group is left to train "
            "on. Give finer groups (questions.columns.group), or more questions."
        )
    return np.array([question.group in chosen for question in questions])


def _card(context: Context, width: int) -> dict[str, Any]:
    """The card values that identify the states a decoder accepts, and its settings."""
    config = context.config
    return {
        **probed_state_card(context),
        "width": width,
        "prompt": context.prompts.sensing_card,
        "settings": {**config.decoder.model_dump(mode="json"), "learning_rate": config.decoder.peak_rate},
        "base": config.decoder.t5 or context.resolved.name,
    }


def _settings(config: RunConfig, _arm: str, known: Identities) -> list[Any]:
    """A T5 is identified by its revision instead of its name or folder. Each kind of decoder has its own settings."""
    unread = {"pretrained", "pretrained_revision", "t5", "t5_revision"}
    unread |= {"soft_tokens", "lora_rank"} if config.decoder.t5 else {"pseudo_tokens"}
    return [values(config.decoder, without=tuple(unread)), known.decoder, config.seed]


def _costs(sizes: Sizes, _arm: str) -> Cost:
    """As for fine-tuning. The cost of a T5 is unknown here, so it counts as 0."""
    questions, settings = sizes.of_role("decoder"), sizes.config.decoder
    tokens = settings.epochs * questions * sizes.lengths.own
    return Cost(questions, tokens, 0.0 if settings.t5 else 2.2, minutes=settings.minutes)


DECODER_STATES = Stage(
    "decoder_states",
    verb="augment",
    work=decoder_states,
    reads=lambda config, arm: ["load", *own_probe(config)],
    settings=lambda config, arm, known: [prompted_model(config, known), known.state],
    writes=(Written(STATES, parts=True),),
    # A probe trained again at the same layer reads the same states, so they are not computed again.
    unhashed=("probe",),
    needs=needs_role(
        "decoder",
        ", or use a pretrained decoder (decoder.pretrained); for GeoNames also questions.geonames.decoder=7000",
    ),
    costs=lambda sizes, arm: Cost(sizes.of_role("decoder"), sizes.of_role("decoder") * sizes.lengths.own),
)
DECODER = Stage(
    "decoder",
    verb="augment",
    work=train_decoder,
    reads=lambda config, arm: ["decoder_states"],
    settings=_settings,
    writes=(Written("decoder"), Written(TRAINING, working=True)),
    costs=_costs,
)
