"""Stages `signals`, `pool_entropy`, `pool_likelihood` and `sentences`: the signals of the pool that query strategies
read.

    ka2l map runs/mine select.strategy=semantic_entropy

Each signal is computed once, only if a strategy reads it. It is one array in `pool_signals/NAME.npy`, rows sorted by
question id as in `pool_signals/ids.parquet`, read as a memory map; p_unknown is in knowledge_map.parquet. A running
stage writes its signals in parts, so that a crash loses one part; at its end they are merged, one part in memory at a
time. Stage `map`, which computes p_unknown and the embedding, is in `map.py`.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np

from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import samples_from_server
from ka2l.errors import ConfigError, RunError
from ka2l.knowledge.uncertainty.baseline_scores import negative_log_likelihood
from ka2l.knowledge.uncertainty.measure import clustered
from ka2l.knowledge.uncertainty.semantic_entropy import semantic_entropy
from ka2l.models.imported_answers import ImportedAnswers
from ka2l.models.interface import Prompt
from ka2l.pipeline.arms import arms, own_probe, strategy_of
from ka2l.pipeline.content_keys import given_probe, pool_answers, prompted_model, unread_of_measure
from ka2l.pipeline.context import Context
from ka2l.pipeline.preflight import check_judge
from ka2l.pipeline.run_directory import Attempt, Written
from ka2l.pipeline.shared.answer_source import answering, ask, check_imported, count_tokens
from ka2l.pipeline.shared.answered_questions import log_probabilities
from ka2l.pipeline.shared.artifact_tables import answer_batches, compact, gather, read_signal, save_signal
from ka2l.pipeline.shared.part_passes import Arrays, over_questions, over_role
from ka2l.pipeline.shared.pool_signal_files import NEXT_TOKEN, signal_file
from ka2l.pipeline.shared.run_judge import run_judge
from ka2l.pipeline.stage import Cost, Identities, Stage
from ka2l.questions.question import Question

# The questions of this many batches of answers are read together: each reading is a pass over the file of questions.
_BATCHES_AT_ONCE = 64
_NEXT_TOKEN_PARTS = "pool_signals/next_token"
_SENTENCE_PARTS = "pool_signals/sentences"
_LIKELIHOOD_PARTS = "pool_signals/likelihood"


def next_token(context: Context, attempt: Attempt) -> None:
    """Compute the uncertainty about the first token of the answer: entropy in nats, top probability and margin."""
    run = context.run
    model = context.prepared_model()

    def signals(prompts: list[Prompt]) -> Arrays:
        return dict(zip(NEXT_TOKEN, model.next_token_signals(prompts), strict=True))

    with attempt.begin() as record:
        folder = run.file(_NEXT_TOKEN_PARTS)
        over_role(context, attempt, "pool", model, folder, signals)
        ids = gather(folder, {name: run.file(signal_file(name)) for name in NEXT_TOKEN})
        record.counts = {"questions": len(ids)}


def sentences(context: Context, attempt: Attempt) -> None:
    """Compute embeddings of the questions' texts, [questions, width], of unit length."""
    from ka2l.models.loading import pick_device
    from ka2l.models.sentence_encoder import SentenceEncoder

    run, name = context.run, context.config.select.encoder
    encoder = SentenceEncoder(name, device=pick_device(context.config.model), setting="select.encoder")

    def signals(chunk: list[Question]) -> Arrays:
        return {"sentence_embedding": compact(encoder.encode([question.question for question in chunk]))}

    with attempt.begin() as record:
        folder = run.file(_SENTENCE_PARTS)
        over_questions(context, attempt, "pool", folder, signals)
        ids = gather(folder, {"sentence_embedding": run.file(signal_file("sentence_embedding"))})
        record.counts = {"questions": len(ids)}
        record.facts = {"places": {name: encoder.key}}


def sampled_entropy(context: Context, attempt: Attempt) -> None:
    """Compute the semantic entropy of the pool's sampled answers (Eq. 2), in nats, with the judge and rules of
    `measure`.
    """
    run, settings = context.run, context.config.measure
    ids: list[str] = []
    entropies: list[float] = []
    with attempt.begin() as record, run_judge(context, None, attempt.stage) as judging:
        batches = answer_batches(run.file("pool_answers"), context.config.sample.n)
        while several := list(islice(batches, _BATCHES_AT_ONCE)):
            text_of = {} if judging.judge is None else _texts(context, several)
            for batch in several:
                answers = [[str(row["text"]) for number, row in rows.items() if number] for rows in batch.values()]
                texts = [text_of.get(question_id, "") for question_id in batch]
                clusters, _ = clustered(texts, answers, judging.judge, judging.equivalence, settings.clusters)
                ids += batch
                entropies += map(semantic_entropy, clusters)
                attempt.checkpoint()
        save_signal(run.file(signal_file("semantic_entropy")), ids, np.array(entropies, dtype=np.float32))
        record.counts = {"questions": len(ids), **judging.counts()}
        record.facts = {"judge": context.identities.judge} if judging.judge is not None else {}


def _texts(context: Context, batches: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The texts of the questions of some batches by id, in one pass over the file. Only a judge needs them."""
    wanted = {question_id for batch in batches for question_id in batch}
    return {q.id: q.question for q in context.questions_by_id(wanted).values()}


def answer_likelihood(context: Context, attempt: Attempt) -> None:
    """Compute the mean log-probability, nats per token, of the low-temperature answer.

    An empty answer has no tokens; it gets the lowest value of the pool.

    Raises:
        RunError: an answer came without log-probabilities.
    """
    run = context.run
    engine = answering(context, states=False)
    name, folder = "sequence_log_likelihood", run.file(_LIKELIHOOD_PARTS)
    if isinstance(engine.sampler, ImportedAnswers):
        check_imported(context, engine.sampler, context.ids("pool"), 0)

    def signals(chunk: list[Question]) -> Arrays:
        rows = ask(context, engine, chunk, (0,), lambda _count: None)
        logprobs = [log_probabilities(row.answers[0]._asdict()) for row in rows]
        without = [row.question_id for row, values in zip(rows, logprobs, strict=True) if values is None]
        if without:
            raise RunError(
                f"{run.path}: {len(without)} answers came without token log-probabilities, first: "
                f"{', '.join(without[:5])}. A strategy that reads their likelihood needs them: set "
                "server.logprobs=true if the server can give them, or choose another select.strategy."
            )
        count_tokens(attempt.record, engine)
        return {name: np.array([-negative_log_likelihood(values or ()) for values in logprobs], dtype=np.float32)}

    with attempt.begin() as record:
        over_questions(context, attempt, "pool", folder, signals)
        ids, likelihoods = read_signal(folder, name)
        empty = np.isnan(likelihoods)
        likelihoods[empty] = likelihoods[~empty].min() if not empty.all() else 0.0
        save_signal(run.file(signal_file(name)), ids, likelihoods)
        record.counts = {"questions": len(ids)}
        if empty.any():
            record.counts["empty_answers"] = int(empty.sum())


def _fits_cosine(config: RunConfig) -> bool:
    """Whether the judge's cosine threshold is fitted."""
    return config.measure.judge == "embedding" and config.measure.embedding_threshold == "fit"


def _entropy_settings(config: RunConfig, _arm: str, known: Identities) -> list[Any]:
    """What determines which answers mean the same. The threshold of entropy and other scores are not used here."""
    read = {"judge", "equivalence", "clusters", "embedding_threshold"} - set(unread_of_measure(config))
    return [config.sample.n, config.measure.model_dump(mode="json", include=read), known.judge]


def _strategies(config: RunConfig) -> str:
    """The strategies of all arms, for error messages."""
    return " and ".join(dict.fromkeys(strategy_of(config, arm) for arm in arms(config)))


def _refuses_unfitted_cosine(config: RunConfig) -> None:
    check_judge(config)
    if _fits_cosine(config) and config.map.probe:
        raise ConfigError(
            f"select.strategy {_strategies(config)}: measure.embedding_threshold=fit is fitted on the probe questions, "
            "and with map.probe they get no answers. Give a cosine, such as measure.embedding_threshold=0.7."
        )


def _refuses_no_logprobs(config: RunConfig) -> None:
    if samples_from_server(config) and not config.server.logprobs:
        raise ConfigError(
            f"select.strategy {_strategies(config)}: the likelihood of answers needs their token log-probabilities, "
            "and with server.logprobs=false the server does not return them. Set server.logprobs=true, or choose "
            "another strategy."
        )


SIGNALS = Stage(
    "signals",
    verb="map",
    work=next_token,
    reads=lambda config, arm: ["load"],
    settings=lambda config, arm, known: [prompted_model(config, known), given_probe(config, known)],
    writes=(
        *(Written(signal_file(name)) for name in NEXT_TOKEN),
        Written(_NEXT_TOKEN_PARTS, parts=True, working=True),
    ),
    gives=NEXT_TOKEN,
    costs=lambda sizes, arm: Cost(sizes.of_role("pool"), sizes.of_role("pool") * sizes.lengths.own, prefix=True),
)
POOL_ENTROPY = Stage(
    "pool_entropy",
    verb="map",
    work=sampled_entropy,
    reads=lambda config, arm: [
        "pool_answers",
        *(["measure"] if _fits_cosine(config) and own_probe(config) else []),
    ],
    settings=_entropy_settings,
    writes=(Written(signal_file("semantic_entropy")),),
    gives=("semantic_entropy",),
    refuses=_refuses_unfitted_cosine,
    costs=lambda sizes, arm: Cost(sizes.of_role("pool")),
)
POOL_LIKELIHOOD = Stage(
    "pool_likelihood",
    verb="map",
    work=answer_likelihood,
    reads=lambda config, arm: ["load"],
    settings=lambda config, arm, known: pool_answers(config, known, "temperature"),
    writes=(
        Written(signal_file("sequence_log_likelihood")),
        Written(_LIKELIHOOD_PARTS, parts=True, working=True),
    ),
    gives=("sequence_log_likelihood",),
    refuses=_refuses_no_logprobs,
    costs=lambda sizes, arm: sizes.sampling("pool_likelihood", "pool", 1),
)
SENTENCES = Stage(
    "sentences",
    verb="map",
    work=sentences,
    reads=lambda config, arm: ["load"],
    settings=lambda config, arm, known: [known.sentences],
    writes=(
        Written(signal_file("sentence_embedding")),
        Written(_SENTENCE_PARTS, parts=True, working=True),
    ),
    gives=("sentence_embedding",),
    # The encoder is a small model; its time is not estimated.
    costs=lambda sizes, arm: Cost(sizes.of_role("pool")),
)
