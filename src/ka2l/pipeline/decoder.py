"""The hidden-state decoder of a run: the states it learns from, its training, and where it comes from otherwise.

    ka2l augment runs/mine augment.per_question=8

It decodes the very state the probe judges: the same prompt, position and layer. That is written in its card, and a
decoder of another state is refused.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l import files
from ka2l.config import ModelConfig, RunConfig
from ka2l.errors import DegenerateError, ModelError, RunError
from ka2l.models.base import Position, Prompt
from ka2l.models.load import load_causal_lm, pick_device, resolve
from ka2l.pipeline.artifacts import compact, read_signal
from ka2l.pipeline.context import Context, need_questions
from ka2l.pipeline.sense import over_role, read_probe
from ka2l.progress import by_step
from ka2l.questions import Question, rank

if TYPE_CHECKING:
    from ka2l.augmentation.decoder import Decoder
    from ka2l.augmentation.network import Network

STATES = "decoder_states"


class Judged(NamedTuple):
    """Which state of the model the probe judges."""

    layer: int
    position: Position


def judged(context: Context) -> Judged:
    """Layer and position of the run's probe.

    Raises:
        RunError: it reads all layers, so there is no one state to decode.
    """
    probe, card = read_probe(context)
    if probe.layer < 0:
        raise RunError(
            f"{context.run.path}: the probe ({probe.kind}) judges the states of all layers, and a decoder reads one. "
            "Use a probe of one layer: probe.kinds=[linear, mlp], or another map.probe."
        )
    return Judged(probe.layer, card["position"])


def decoder_states(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """The state of every question of role `decoder`, as the probe would judge it."""
    run = context.run
    layer, position = judged(context)
    if run.stages["load"].counts.get("decoder", 0) == 0:
        need_questions([], "decoder", stage)
    model = context.prepared_model()

    def states(prompts: list[Prompt]) -> dict[str, NDArray[Any]]:
        return {"state": compact(model.states(prompts, layer, position=position))}

    with run.stage(stage, key, inputs) as record:
        folder = run.file(STATES)
        over_role(context, stage, "decoder", model, folder, states)
        record.counts = {"questions": run.stages["load"].counts["decoder"], "layer": layer}
        record.facts = {"parts": {STATES: len(files.parts(folder, ""))}, "position": position}


def train_decoder(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """Train the decoder on stored states; the language model is only there where it is itself the decoder."""
    from ka2l.augmentation.batches import count_steps
    from ka2l.augmentation.decoder import Decoder, check_finite, standardisation
    from ka2l.augmentation.folder import save
    from ka2l.augmentation.training import train

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
    with run.stage(stage, key, inputs) as record:
        lengths = [len(network.encode(text)) for text in texts[~held]]
        steps = count_steps(lengths, config.decoder.batch_tokens, config.seed, config.decoder.epochs)
        with context.reporter.bar(stage, steps) as advance:
            trained = train(
                network,
                standardised[~held],
                texts[~held].tolist(),
                standardised[held],
                texts[held].tolist(),
                config.decoder,
                run.file("decoder_training"),
                seed=config.seed,
                fingerprint=key,
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
        save(Decoder(network, mean, scale, card), run.file("decoder"))
        record.counts = {"trained_on": card["trained_on"], "steps": trained.steps, "best": trained.best_step}
        record.tokens = {"trained": trained.tokens}
        record.facts = {"quality": card["quality"], "kind": network.kind}
        record.facts["places"] = {config.decoder.t5: decoder_key(config)} if config.decoder.t5 else {}


class Place(NamedTuple):
    """Where a decoder lies."""

    name: str  # a folder, else a Hub id
    revision: str | None


def decoder_place(context: Context) -> Place:
    """Of the decoder this run decodes with: its own, or the one `decoder.pretrained` names."""
    settings = context.config.decoder
    if settings.pretrained:
        return Place(settings.pretrained, settings.pretrained_revision)
    return Place(str(context.run.file("decoder").resolve()), None)  # a path, never taken for a Hub id


def checked_card(context: Context) -> dict[str, Any]:
    """The card of that decoder; nothing large is read.

    Raises:
        RunError: it decodes another state than the probe judges.
        ModelError: there is none, or this version does not know it.
    """
    from ka2l.augmentation.folder import check_fits, load_card

    place = decoder_place(context)
    card = load_card(*place)
    given = context.config.decoder.pretrained
    check_fits(card, _judged_state(context), f"decoder.pretrained={given}" if given else place.name)
    return card


def run_decoder(context: Context) -> "Decoder":
    """The decoder this run decodes with.

    Raises:
        RunError, ModelError: as `checked_card`, or its weights are not what the card says.
    """
    from ka2l.augmentation.folder import load

    checked_card(context)
    return load(
        *decoder_place(context),
        lambda: _language_model(context.config),
        device=pick_device(context.config.model),
    )


def new_network(config: RunConfig, width: int) -> "Network":
    """An untrained decoder: of the T5 that `decoder.t5` names, else of the language model itself."""
    if config.decoder.t5:
        from ka2l.augmentation.t5 import T5Network, load_t5

        model, tokenizer = load_t5(config.decoder.t5, config.decoder.t5_revision, pick_device(config.model))
        return T5Network(model, tokenizer, width, config.decoder, config.seed)
    from ka2l.augmentation.soft_prompt import SoftPromptNetwork

    model, tokenizer = _language_model(config)
    return SoftPromptNetwork(model, tokenizer, width, config.decoder, config.seed)


@lru_cache(maxsize=4)
def _given_key(name: str, revision: str | None) -> str:
    from ka2l.augmentation.folder import fingerprint

    return fingerprint(name, revision)


def decoder_key(config: RunConfig) -> str:
    """What pins a decoder trained before, or the T5 one is made of; empty where the language model is the decoder.

    Raises:
        ModelError: there is no such decoder or T5.
    """
    settings = config.decoder
    try:
        if settings.pretrained:
            return _given_key(settings.pretrained, settings.pretrained_revision)
        if settings.t5:
            return resolve(ModelConfig(name=settings.t5, revision=settings.t5_revision)).revision
    except ModelError as error:
        if settings.pretrained:
            raise ModelError(f"decoder.pretrained: {error}") from None
        raise ModelError(
            f"decoder.t5={settings.t5}: there is no such T5. Give the folder or Hub id of one (google-t5/t5-base), or "
            f"leave it empty: then the language model is its own decoder. ({error})"
        ) from None
    return ""


def _language_model(config: RunConfig) -> tuple[Any, Any]:
    """The model in whole weights: few bits are for asking, not for learning."""
    settings = config.model.model_copy(update={"quantization": "none"})
    return load_causal_lm(settings, resolve(settings))


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


def _judged_state(context: Context) -> dict[str, Any]:
    """All that makes two states comparable."""
    return {
        "model": context.resolved.name,
        "revision": context.resolved.revision,
        **judged(context)._asdict(),
        "sensing_hash": context.prompts.sensing_hash,
    }


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
