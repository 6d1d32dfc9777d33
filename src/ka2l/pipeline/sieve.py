"""What speaks against a decoded question before the probe is asked: the filters, fed with a run's questions.

In this order: its form, equal texts, the same fact in other words (where facts can be told: GeoNames), near texts, and
whether anybody can answer it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from ka2l.augmentation.filters import Candidate, Verdict, copies, in_style, wordings
from ka2l.augmentation.near_copies import Embedded, near_copies
from ka2l.augmentation.question_style import QuestionStyle
from ka2l.models.load import pick_device
from ka2l.models.sentence import SentenceEncoder
from ka2l.pipeline.candidates import Decoding
from ka2l.pipeline.context import Context
from ka2l.questions import Question
from ka2l.text import normalize_question

_STYLE_FROM = 20_000  # questions that show what a question looks like here
_BATCH = 4096
_Texts = Mapping[str, tuple[str, ...]]


class Sifted(NamedTuple):
    """What the filters say."""

    verdicts: list[Verdict]
    groups: list[str]
    """Of each candidate: the fact it asks for where that can be told, else its own text."""


def sifted(context: Context, sources: Sequence[Question], found: Sequence[Decoding]) -> Sifted:
    """Look for reasons to drop each decoded question; the first one counts.

    Args:
        context: of the run; its questions are what a new one may not repeat.
        sources: the questions whose states were decoded.
        found: what they say; of equal ones the first is kept.
    """
    candidates = [Candidate(one.id, one.source.id, one.text, one.finished) for one in found]
    fact_of = _facts(context)
    facts = [fact_of(candidate.question) for candidate in candidates]
    fact_by_id = dict(zip((candidate.id for candidate in candidates), facts, strict=True))
    said = {normalize_question(candidate.question) for candidate in candidates}
    asked = {role: _those_said(context, role, said) for role in ("eval", "pool", "probe", "shot")}
    elsewhere = {**asked["probe"], **asked["shot"]}
    of_sources = wordings(sources)
    verdicts = in_style(candidates, _style(context))
    for look in (
        lambda left: copies(left, of_sources, asked["eval"], asked["pool"], elsewhere),
        lambda left: _same_fact(left, fact_by_id, context),
        lambda left: _near(context, left, of_sources, fact_by_id),
    ):
        _judge(candidates, verdicts, look)
    if context.config.questions.source == "geonames" and context.config.annotate.annotator == "gold":
        for i, fact in enumerate(facts):
            if not verdicts[i].reason and not fact:
                verdicts[i] = verdicts[i]._replace(reason="no_answer")
    groups = [fact or normalize_question(c.question) for fact, c in zip(facts, candidates, strict=True)]
    return Sifted(verdicts, groups)


def _judge(
    candidates: Sequence[Candidate],
    verdicts: list[Verdict],
    look: Callable[[Sequence[Candidate]], Sequence[Verdict]],
) -> None:
    """Let one filter see what the earlier ones have left."""
    left = [i for i, verdict in enumerate(verdicts) if not verdict.reason]
    for i, verdict in zip(left, look([candidates[i] for i in left]), strict=True):
        verdicts[i] = verdict


def _those_said(context: Context, role: str, said: set[str]) -> _Texts:
    """Wordings of the questions of a role that some candidate repeats: all that can matter, and nothing holds the pool."""
    return {
        i: texts
        for batch in context.question_batches(role, _BATCH)
        for i, texts in wordings(batch).items()
        if any(normalize_question(text) in said for text in texts)
    }


def _style(context: Context) -> QuestionStyle:
    """From the questions the decoder has learned to say, or where it comes from elsewhere, from the pool."""

    def texts(role: str) -> Iterator[str]:
        return (q.question for batch in context.question_batches(role, _BATCH) for q in batch)

    learned = list(islice(texts("decoder"), _STYLE_FROM))
    return QuestionStyle.learn(learned or islice(texts("pool"), _STYLE_FROM))


def _facts(context: Context) -> Callable[[str], str]:
    """What fact a question asks for, as its group in the run; empty where nobody can tell."""
    if context.config.questions.source != "geonames":
        return lambda _question: ""
    from ka2l.geonames_resolver import resolve

    def fact(question: str) -> str:
        resolved = resolve(question)
        return resolved.fact if resolved is not None else ""

    return fact


def _same_fact(
    candidates: Sequence[Candidate], fact_of: Mapping[str, str], context: Context
) -> list[Verdict]:
    """Candidates that ask in other words for a fact that has its question already, or that an earlier one asks for."""
    wanted = {fact_of[candidate.id] for candidate in candidates}
    known: dict[str, tuple[str, str]] = {}
    for reason, roles in (("in_eval", ["eval"]), ("in_pool", ["pool"]), ("elsewhere", ["probe", "shot"])):
        for role in roles:
            for batch in context.question_batches(role, _BATCH):
                for question in batch:
                    if question.group in wanted:
                        known.setdefault(question.group, (reason, question.id))
    verdicts = []
    for candidate in candidates:
        fact = fact_of[candidate.id]
        reason, twin = known.get(fact, ("", "")) if fact else ("", "")
        if reason and twin == candidate.source_id:
            reason = "source_again"
        verdicts.append(Verdict(reason, None, twin) if reason else Verdict())
        if fact and not reason:
            known[fact] = ("twice", candidate.id)
    return verdicts


def _near(
    context: Context, candidates: Sequence[Candidate], sources: _Texts, fact_of: Mapping[str, str]
) -> list[Verdict]:
    """Candidates near others. One whose fact is known is of another fact by now, however alike the names are."""
    settings = context.config.augment
    if not settings.embedding_model or not candidates:
        return [Verdict() for _ in candidates]
    encoder = SentenceEncoder(
        settings.embedding_model,
        device=pick_device(context.config.model),
        setting="augment.embedding_model",
    )

    def embedded(texts: _Texts) -> Embedded:
        rows = [(i, text) for i, several in texts.items() for text in several]
        return Embedded([i for i, _ in rows], encoder.encode([text for _, text in rows]))

    references = {
        "source": [embedded(sources)],
        **{
            role: (embedded(wordings(batch)) for batch in context.question_batches(role, _BATCH))
            for role in ("eval", "pool")
        },
    }
    rows = encoder.encode([candidate.question for candidate in candidates])
    told_apart = [candidate.id for candidate in candidates if fact_of[candidate.id]]
    return near_copies(candidates, rows, references, settings.near_copy, told_apart)
