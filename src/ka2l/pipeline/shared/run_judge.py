"""Who says whether two answers mean the same, by the config: their text, an NLI model, sentence embeddings, or an LLM.

Judgements are kept in the run (`judgements.sqlite`) or in the file `measure.cache`, which runs can share.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ka2l.common import atomic_files
from ka2l.common.answer_text import normalize_answer
from ka2l.errors import DegenerateError
from ka2l.knowledge.settings import Equivalence
from ka2l.knowledge.uncertainty.cosine_threshold import fit_cosine_threshold
from ka2l.models.judges.kept_judgements import CachedJudge
from ka2l.models.loading import pick_device, resolve
from ka2l.pipeline.context import Context
from ka2l.pipeline.identities import judge_key, llm_name
from ka2l.pipeline.run_directory import JUDGEMENTS, PAID
from ka2l.pipeline.shared.answered_questions import Answered

if TYPE_CHECKING:
    from ka2l.models.sentence_encoder import SentenceEncoder


FEWEST = 20  # pairs of each kind that a cosine threshold can be fitted on


class RunJudge(NamedTuple):
    """The judge of a run. Without one, texts are compared; `encoder` is that of judge `embedding`."""

    judge: CachedJudge | None = None
    encoder: "SentenceEncoder | None" = None
    threshold: float | None = None  # the cosine, of judge `embedding`
    equivalence: Equivalence = "strict"

    def counts(self) -> dict[str, int]:
        """For the manifest: pairs that were in question, judgements made, calls of the model, and found in the cache."""
        if self.judge is None:
            return {}
        counts = self.judge.counts
        return {
            "pairs_judged": counts.pairs,
            "judgements_made": counts.judged,
            "judge_calls": counts.calls,
            "cache_hits": counts.hits,
        }

    def facts(self) -> dict[str, Any]:
        """For threshold.json: by whom the answers were judged."""
        if self.judge is None:
            return {}
        fitted = {"embedding_threshold": self.threshold} if self.threshold is not None else {}
        return {"judged_by": self.judge.key, **fitted}


@contextmanager
def run_judge(context: Context, asked: Answered | None, stage: str = "measure") -> Iterator[RunJudge]:
    """The judge that `measure.judge` names, its judgements kept as they are made.

    Args:
        context: of the run.
        asked: the probe questions, for a cosine that is fitted on them; None: take the one `measure` has fitted.
        stage: that is at work.
    """
    settings = context.config.measure
    if settings.judge == "lexical":
        yield RunJudge()
        return
    cache = Path(settings.cache) if settings.cache else context.run.file(JUDGEMENTS)
    encoder, threshold = None, None
    if settings.judge == "embedding":
        from ka2l.models.sentence_encoder import EmbeddingJudge, SentenceEncoder

        encoder = SentenceEncoder(settings.embedding_model, device=pick_device(context.config.model))
        threshold = _threshold(context, asked, encoder)
        judge: Any = EmbeddingJudge(encoder, threshold)
    elif settings.judge == "nli":
        from ka2l.models.judges.entailment import EntailmentModel

        context.release()
        judge = EntailmentModel(
            settings.nli_model,
            equivalence=settings.equivalence,
            device=pick_device(context.config.model),
            batch_tokens=settings.batch_tokens,
        )
    else:
        judge = _llm_judge(context)
    with CachedJudge(judge, cache, progress=lambda total: context.reporter.bar(stage, total)) as cached:
        # A cosine never says contradiction, so without entailment everything would be the same to it.
        yield RunJudge(cached, encoder, threshold, "strict" if encoder else settings.equivalence)


def _llm_judge(context: Context) -> Any:
    from ka2l.models.judges.llm_judge import LocalLlmJudge, ServerLlmJudge

    config = context.config
    if config.judge_server.url:
        from ka2l.models.server.server_model import ServerModel

        server = ServerModel(config.judge_server, context.run.file(PAID), say=context.reporter.say)
        return ServerLlmJudge(server, config.judge_server.model)
    from ka2l.models.local.local_model import LocalModel

    own = llm_name(config) == config.model.name
    if own and config.prompt.template == "plain":
        return LocalLlmJudge(context.model(), key=judge_key(config))
    context.release()
    settings = config.model
    if not own:
        settings = settings.model_copy(update={"name": config.measure.llm_model, "revision": None})
    return LocalLlmJudge(LocalModel.load(settings, resolve(settings)), key=judge_key(config))


def _threshold(context: Context, asked: Answered | None, encoder: "SentenceEncoder") -> float:
    """The cosine from which two answers mean the same: given, or fitted on the gold answers of training questions.

    Raises:
        DegenerateError: too few aliases or wrong answers to fit it.
    """
    given = context.config.measure.embedding_threshold
    if given != "fit":
        return float(given)
    if asked is None:
        return float(atomic_files.read_json(context.run.file("threshold.json"))["embedding_threshold"])
    pairs: list[tuple[str, str, str]] = []
    same: list[bool] = []
    for row in asked.training:
        question, gold = asked.questions[row], list(dict.fromkeys(asked.questions[row].answers))
        right = {normalize_answer(answer) for answer in gold}
        aliases = [alias for alias in gold[1:] if normalize_answer(alias) != normalize_answer(gold[0])]
        wrong = [t for t in dict.fromkeys(asked.texts[row]) if gold and normalize_answer(t) not in right]
        # As many of each from every question, so that one with fifty aliases does not decide alone.
        each = min(len(aliases), len(wrong), 3)
        for text, alike in [*((a, True) for a in aliases[:each]), *((w, False) for w in wrong[:each])]:
            pairs.append((question.question, gold[0], text))
            same.append(alike)
    if len(pairs) < 2 * FEWEST:
        raise DegenerateError(
            f"measure.embedding_threshold=fit needs training questions with several gold answers and wrong ones of the "
            f"model: there are {sum(same)} pairs of each kind, and {FEWEST} are the least. Give a cosine, such as "
            "measure.embedding_threshold=0.7."
        )
    fitted = fit_cosine_threshold(encoder.cosines(pairs), same)
    context.reporter.say(
        f"measure    cosine from which answers mean the same: {fitted.value:.2f} (right for "
        f"{fitted.balanced_accuracy:.0%} of {len(same)} pairs of gold answers and wrong ones)"
    )
    return fitted.value
