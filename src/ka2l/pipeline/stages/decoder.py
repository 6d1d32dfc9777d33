"""The hidden-state decoder of a run: the states it learns from, its training, and where it comes from otherwise.

    ka2l augment runs/mine augment.per_question=8

It decodes the very state the probe judges: the same prompt, position and layer. That is written in its card, and a
decoder of another state is refused.
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
from ka2l.pipeline.shared.run_decoder import _judged_state, judged, new_network
from ka2l.pipeline.stage import Cost, Identities, Sizes, Stage
from ka2l.questions.question import Question, rank

STATES, TRAINING = "decoder_states", "decoder_training"


def decoder_states(context: Context, attempt: Attempt) -> None:
    """The state of every question of role `decoder`, as the probe would judge it."""
    run = context.run
    layer, position = judged(context)
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
    """Train the decoder on stored states; the language model is only there where it is itself the decoder."""
    from ka2l.augmentation.decoder import Decoder
    from ka2l.augmentation.decoder_training import train
    from ka2l.augmentation.length_batches import count_steps
    from ka2l.augmentation.state_scaling import check_finite, standardisation
    from ka2l.augmentation.validation_checks import DecoderExamples

    config, run = context.config, context.run
    ids, found = read_signal(run.file(STATES), "state")
    states = found.astype(np.float32)
    questions = context.questions_by_id(set(ids))
    held = _validation([questions[i] for i in ids], config.decoder.validation, config.seed)
    texts = np.array([questions[i].question for i in ids], dtype=object)
    check_finite(states, ids)
    mean, scale = standardisation(states[~held])
    standardised = (states - mean) / scale
    context.release()  # the decoder is, or needs, a model of its own
    network = new_network(
        config, states.shape[1]
    )  # before what is there is given up: it may be no decoder at all
    with attempt.begin() as record:
        lengths = [len(network.encode(text)) for text in texts[~held]]
        steps = count_steps(lengths, config.decoder.batch_tokens, config.seed, config.decoder.epochs)
        with context.reporter.bar(attempt.stage, steps) as advance:
            trained = train(
                network,
                DecoderExamples(standardised[~held], texts[~held].tolist()),
                DecoderExamples(standardised[held], texts[held].tolist()),
                config.decoder,
                run.file(TRAINING),
                seed=config.seed,
                fingerprint=attempt.key,
                on_step=by_step(advance),
                say=context.reporter.say,
            )
        card = {
            **_card(context, states.shape[1]),
            "trained_on": int((~held).sum()),
            "validation": int(held.sum()),
            "quality": trained.quality._asdict(),
            # How long it took is in the manifest: the card is the same after an interruption.
            "history": [{k: v for k, v in look.items() if k != "seconds"} for look in trained.history],
        }
        Decoder(network, mean, scale, card).save_pretrained(run.file("decoder"))
        record.counts = {"trained_on": card["trained_on"], "steps": trained.steps, "best": trained.best_step}
        record.tokens = {"trained": trained.tokens}
        record.facts = {"quality": card["quality"], "kind": network.kind}
        record.facts["places"] = {config.decoder.t5: decoder_key(config)} if config.decoder.t5 else {}


def _validation(questions: list[Question], size: int, seed: int) -> NDArray[np.bool_]:
    """Which questions are kept out of training: whole groups in the order of a hash, so wordings of a fact stay together."""
    if len(questions) < 2 * size:
        raise DegenerateError(
            f"A decoder needs more questions than it has: {len(questions)} have the role decoder, and "
            f"decoder.validation={size} of them would be kept out of training. Give questions.roles.decoder more, or "
            "set decoder.validation lower."
        )
    names = sorted({question.group for question in questions}, key=lambda name: rank(seed, "decoder", name))
    sizes: dict[str, int] = {}
    for question in questions:
        sizes[question.group] = sizes.get(question.group, 0) + 1
    out: set[str] = set()
    count = 0
    for name in names:
        if count >= size:
            break
        out.add(name)
        count += sizes[name]
    if len(out) == len(names):
        raise DegenerateError(
            f"All {len(questions)} questions of role decoder are of {len(names)} groups, and none is left to train on once "
            "one is kept out. Give finer groups (questions.columns.group), or more questions."
        )
    return np.array([question.group in out for question in questions])


def _card(context: Context, width: int) -> dict[str, Any]:
    """What a decoder must know to refuse states that are not its own."""
    config = context.config
    return {
        **_judged_state(context),
        "width": width,
        "prompt": context.prompts.sensing_card,
        "settings": {**config.decoder.model_dump(mode="json"), "learning_rate": config.decoder.peak_rate},
        "base": config.decoder.t5 or context.resolved.name,
    }


def _settings(config: RunConfig, _arm: str, known: Identities) -> list[Any]:
    """A T5 is known by its revision, wherever it lies; each kind of decoder reads settings of its own."""
    unread = {"pretrained", "pretrained_revision", "t5", "t5_revision"}
    unread |= {"soft_tokens", "lora_rank"} if config.decoder.t5 else {"pseudo_tokens"}
    return [values(config.decoder, without=tuple(unread)), known.decoder, config.seed]


def _costs(sizes: Sizes, _arm: str) -> Cost:
    """As for fine-tuning; the cost of a T5 is not known from this model's."""
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
    # A probe trained again at the same layer reads the same states: they need not be computed again.
    unhashed=("probe",),
    needs=needs_role(
        "decoder",
        ", or take a decoder trained before (decoder.pretrained); for GeoNames also questions.geonames.decoder=7000",
    ),
    costs=lambda sizes, arm: Cost(
        sizes.of_role("decoder"), sizes.of_role("decoder") * sizes.lengths.own, weight=1.0
    ),
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
