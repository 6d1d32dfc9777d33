"""The judge of a run, which decides whether two answers mean the same: their text, an NLI model, embeddings, or an LLM.

Judgements are kept in the run (`judgements.sqlite`) or in the file `measure.cache`, which several runs can share.
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


# A cosine threshold is fitted on at least this many pairs of each kind.
FEWEST = 20


class RunJudge(NamedTuple):
    """The judge of a run."""

    # None: texts are compared.
    judge: CachedJudge | None = None
    # The encoder and the cosine threshold of judge `embedding`.
    encoder: "SentenceEncoder | None" = None
    threshold: float | None = None
    equivalence: Equivalence = "strict"

    def counts(self) -> dict[str, int]:
        """Counts for the manifest: pairs to judge, judgements made, calls of the model, and judgements in the cache."""
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
        """Facts for threshold.json: the judge of the answers, and its fitted threshold."""
        if self.judge is None:
            return {}
        fitted = {"embedding_threshold": self.threshold} if self.threshold is not None else {}
        return {"judged_by": self.judge.key, **fitted}


@contextmanager
def run_judge(context: Context, answered: Answered | None, stage: str) -> Iterator[RunJudge]:
    """The judge that `measure.judge` names. Its judgements are saved as they are made.

    Args:
        context: context of the run.
        answered: the probe questions, to fit a cosine threshold on; None: use the threshold `measure` has fitted.
        stage: name of the running stage.
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
        threshold = _cosine_threshold(context, answered, encoder)
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
        # A cosine cannot express contradiction: without `strict`, every pair would count as equivalent.
        yield RunJudge(cached, encoder, threshold, "strict" if encoder else settings.equivalence)


def _llm_judge(context: Context) -> Any:
    """A language model at a server, or in this process: the run's own model or another one."""
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


class _Pairs(NamedTuple):
    """Pairs of answers to fit a cosine threshold on."""

    # Question, gold answer, other answer.
    texts: list[tuple[str, str, str]]
    # Whether the other answer is an alias of the gold one; else it is a wrong answer.
    same: list[bool]


def _cosine_threshold(context: Context, answered: Answered | None, encoder: "SentenceEncoder") -> float:
    """The cosine from which two answers mean the same: given, or fitted on the gold answers of training questions.

    Raises:
        DegenerateError: too few aliases or wrong answers to fit it.
    """
    given = context.config.measure.embedding_threshold
    if given != "fit":
        return float(given)
    if answered is None:
        return float(atomic_files.read_json(context.run.file("threshold.json"))["embedding_threshold"])
    pairs, same = _alias_pairs(answered)
    if len(pairs) < 2 * FEWEST:
        raise DegenerateError(
            "measure.embedding_threshold=fit needs training questions with several gold answers and with wrong answers "
            f"of the model: there are {sum(same)} pairs of each kind, and at least {FEWEST} are needed. Give a cosine, "
            "such as measure.embedding_threshold=0.7."
        )
    fitted = fit_cosine_threshold(encoder.cosines(pairs), same)
    context.reporter.say(
        f"measure    cosine from which answers mean the same: {fitted.value:.2f} (right for "
        f"{fitted.balanced_accuracy:.0%} of {len(same)} pairs of gold answers and wrong ones)"
    )
    return fitted.value


def _alias_pairs(answered: Answered) -> _Pairs:
    """Gold answers of training questions, paired with their aliases and with wrong answers of the model."""
    pairs = _Pairs([], [])
    for row in answered.training:
        question, gold = answered.questions[row], list(dict.fromkeys(answered.questions[row].answers))
        right = {normalize_answer(answer) for answer in gold}
        aliases = [alias for alias in gold[1:] if normalize_answer(alias) != normalize_answer(gold[0])]
        sampled = dict.fromkeys(answered.answer_texts[row])
        wrong = [text for text in sampled if gold and normalize_answer(text) not in right]
        # As many of each kind from every question, so that a question with fifty aliases does not dominate.
        each = min(len(aliases), len(wrong), 3)
        for text, same in [*((a, True) for a in aliases[:each]), *((w, False) for w in wrong[:each])]:
            pairs.texts.append((question.question, gold[0], text))
            pairs.same.append(same)
    return pairs
