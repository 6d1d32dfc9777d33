"""The pool's signals: what query strategies read, each computed once, only where asked for, and shared by all of them.

    ka2l map runs/mine select.strategy=semantic_entropy

A signal is one array in `pool_signals/NAME.npy`, rows sorted by question id as in `pool_signals/ids.parquet`, read as a
memory map; p_unknown is in knowledge_map.parquet. While a stage works its signals lie in parts, so that a crash costs
one part; at its end they are gathered, one part in memory at a time. The stage `map` is in `sense`.
"""

import numpy as np

from ka2l.errors import RunError
from ka2l.knowledge.uncertainty.baseline_scores import negative_log_likelihood
from ka2l.knowledge.uncertainty.measure import clustered
from ka2l.knowledge.uncertainty.semantic_entropy import semantic_entropy
from ka2l.models.imported_answers import ImportedAnswers
from ka2l.models.interface import Prompt
from ka2l.pipeline.context import Context
from ka2l.pipeline.run_directory import NEXT_TOKEN, signal_file
from ka2l.pipeline.shared.answer_source import answering, ask, check_imported, count_tokens
from ka2l.pipeline.shared.answered_questions import log_probabilities
from ka2l.pipeline.shared.artifact_tables import answer_batches, compact, gather, read_signal, save_signal
from ka2l.pipeline.shared.part_passes import Arrays, over_questions, over_role
from ka2l.pipeline.shared.run_judge import run_judge
from ka2l.questions.question import Question


def next_token(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """How undecided the model is about the first token of its answer: entropy, top probability and margin."""
    run = context.run
    model = context.prepared_model()

    def signals(prompts: list[Prompt]) -> Arrays:
        return dict(zip(NEXT_TOKEN, model.next_token_signals(prompts), strict=True))

    with run.stage(stage, key, inputs) as record:
        folder = run.file("pool_signals/next_token")
        over_role(context, stage, "pool", model, folder, signals)
        ids = gather(folder, {name: run.file(signal_file(name)) for name in NEXT_TOKEN})
        record.counts = {"questions": len(ids)}


def sentences(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """Embeddings of the questions' texts, of unit length."""
    from ka2l.models.loading import pick_device
    from ka2l.models.sentence_encoder import SentenceEncoder

    run, name = context.run, context.config.select.encoder
    encoder = SentenceEncoder(name, device=pick_device(context.config.model), setting="select.encoder")

    def signals(chunk: list[Question]) -> Arrays:
        return {"sentence_embedding": compact(encoder.encode([question.question for question in chunk]))}

    with run.stage(stage, key, inputs) as record:
        folder = run.file("pool_signals/sentences")
        over_questions(context, stage, "pool", folder, signals)
        ids = gather(folder, {"sentence_embedding": run.file(signal_file("sentence_embedding"))})
        record.counts = {"questions": len(ids)}
        record.facts = {"places": {name: encoder.key}}


def sampled_entropy(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """Semantic entropy of the pool's sampled answers (Eq. 2), in nats, by the judge and the rules of `measure`."""
    run, settings = context.run, context.config.measure
    texts = {question.id: question.question for question in context.questions("pool")}
    ids: list[str] = []
    entropies: list[float] = []
    with run.stage(stage, key, inputs) as record, run_judge(context, None, stage) as judging:
        for batch in answer_batches(run.file("pool_answers"), context.config.sample.n):
            answers = [
                [str(row["text"]) for number, row in rows.items() if number] for rows in batch.values()
            ]
            asked = [texts[question_id] for question_id in batch]
            clusters, _ = clustered(asked, answers, judging.judge, judging.equivalence, settings.clusters)
            ids += batch
            entropies += map(semantic_entropy, clusters)
            run.checkpoint(stage)
        save_signal(run.file(signal_file("semantic_entropy")), ids, np.array(entropies, dtype=np.float32))
        record.counts = {"questions": len(ids), **judging.counts()}
        record.facts = {"judge": context.judge_key} if judging.judge is not None else {}


def answer_likelihood(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """Mean log-probability, nats per token, of the low-temperature answer.

    A model that says nothing at all has said it with no token; it counts as the least likely answer of the pool.

    Raises:
        RunError: an answer came without log-probabilities.
    """
    run = context.run
    engine = answering(context, states=False)
    name, folder = "sequence_log_likelihood", run.file("pool_signals/likelihood")
    if isinstance(engine.sampler, ImportedAnswers):
        ids = [q.id for batch in context.question_batches("pool", 4096) for q in batch]
        check_imported(context, engine.sampler, ids, 0)

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
        count_tokens(run.stages[stage], engine)
        return {
            name: np.array([-negative_log_likelihood(values or ()) for values in found], dtype=np.float32)
        }

    with run.stage(stage, key, inputs) as record:
        over_questions(context, stage, "pool", folder, signals)
        ids, likelihoods = read_signal(folder, name)
        empty = np.isnan(likelihoods)
        likelihoods[empty] = likelihoods[~empty].min() if not empty.all() else 0.0
        save_signal(run.file(signal_file(name)), ids, likelihoods)
        record.counts = {"questions": len(ids)}
        if empty.any():
            record.counts["empty_answers"] = int(empty.sum())
