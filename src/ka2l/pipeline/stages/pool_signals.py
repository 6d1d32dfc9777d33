"""The pool's signals: what query strategies read, each computed once, only where asked for, and shared by all of them.

    ka2l map runs/mine select.strategy=semantic_entropy

A signal is one array in `pool_signals/NAME.npy`, rows sorted by question id as in `pool_signals/ids.parquet`, read as a
memory map; p_unknown is in knowledge_map.parquet. While a stage works its signals lie in parts, so that a crash costs
one part; at its end they are gathered, one part in memory at a time. The stage `map` is in `sense`.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np

from ka2l.config.run_config import RunConfig
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

# Batches of answers whose questions are read together: each reading is a pass over the file of questions.
_BATCHES_AT_ONCE = 64
_NEXT_TOKEN_PARTS = "pool_signals/next_token"
_SENTENCE_PARTS = "pool_signals/sentences"
_LIKELIHOOD_PARTS = "pool_signals/likelihood"


def next_token(context: Context, attempt: Attempt) -> None:
    """How undecided the model is about the first token of its answer: entropy, top probability and margin."""
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
    """Embeddings of the questions' texts, of unit length."""
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
    """Semantic entropy of the pool's sampled answers (Eq. 2), in nats, by the judge and the rules of `measure`."""
    run, settings = context.run, context.config.measure
    ids: list[str] = []
    entropies: list[float] = []
    with attempt.begin() as record, run_judge(context, None, attempt.stage) as judging:
        batches = answer_batches(run.file("pool_answers"), context.config.sample.n)
        while several := list(islice(batches, _BATCHES_AT_ONCE)):
            texts = {} if judging.judge is None else _texts(context, several)
            for batch in several:
                answers = [
                    [str(row["text"]) for number, row in rows.items() if number] for rows in batch.values()
                ]
                asked = [texts.get(question_id, "") for question_id in batch]
                clusters, _ = clustered(asked, answers, judging.judge, judging.equivalence, settings.clusters)
                ids += batch
                entropies += map(semantic_entropy, clusters)
                attempt.checkpoint()
        save_signal(run.file(signal_file("semantic_entropy")), ids, np.array(entropies, dtype=np.float32))
        record.counts = {"questions": len(ids), **judging.counts()}
        record.facts = {"judge": context.identities.judge} if judging.judge is not None else {}


def _texts(context: Context, batches: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The texts of the questions of some batches, in one pass over the file; only a judge reads them."""
    wanted = {question_id for batch in batches for question_id in batch}
    return {q.id: q.question for q in context.questions_by_id(wanted).values()}


def answer_likelihood(context: Context, attempt: Attempt) -> None:
    """Mean log-probability, nats per token, of the low-temperature answer.

    A model that says nothing at all has said it with no token; it counts as the least likely answer of the pool.

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
        found = [log_probabilities(row.answers[0]._asdict()) for row in rows]
        without = [row.question_id for row, values in zip(rows, found, strict=True) if values is None]
        if without:
            raise RunError(
                f"{run.path}: {len(without)} answers came without token log-probabilities, first: "
                f"{', '.join(without[:5])}. A strategy that reads their likelihood needs them: set "
                "server.logprobs=true if the server can give them, or choose another select.strategy."
            )
        count_tokens(attempt.record, engine)
        return {
            name: np.array([-negative_log_likelihood(values or ()) for values in found], dtype=np.float32)
        }

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
    return config.measure.judge == "embedding" and config.measure.embedding_threshold == "fit"


def _entropy_settings(config: RunConfig, _arm: str, known: Identities) -> list[Any]:
    """What decides which answers mean the same; not how the threshold, or any other score, is found."""
    read = {"judge", "equivalence", "clusters", "embedding_threshold"} - set(unread_of_measure(config))
    return [config.sample.n, config.measure.model_dump(mode="json", include=read), known.judge]


def _strategies(config: RunConfig) -> str:
    return " and ".join(dict.fromkeys(strategy_of(config, arm) for arm in arms(config)))


def _refuses_unfitted_cosine(config: RunConfig) -> None:
    check_judge(config)
    if _fits_cosine(config) and config.map.probe:
        raise ConfigError(
            f"select.strategy {_strategies(config)}: measure.embedding_threshold=fit is fitted on the probe questions, and "
            "with map.probe none are asked. Give a cosine, such as measure.embedding_threshold=0.7."
        )


def _refuses_no_logprobs(config: RunConfig) -> None:
    if config.sample.engine == "server" and not config.server.logprobs:
        raise ConfigError(
            f"select.strategy {_strategies(config)}: the likelihood of answers needs their token log-probabilities, and "
            "server.logprobs=false asks for none. Set server.logprobs=true, or choose another strategy."
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
    costs=lambda sizes, arm: Cost(
        sizes.of_role("pool"), sizes.of_role("pool") * sizes.lengths.own, prefix=True
    ),
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
    # A small model of its own.
    costs=lambda sizes, arm: Cost(sizes.of_role("pool")),
)
