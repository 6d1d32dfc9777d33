"""What speaks against a decoded question before the probe is asked: the filters, fed with a run's questions.

In this order: its form, equal texts, the same fact in other words (where facts can be told: GeoNames), whether anybody can
answer it, and near texts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from ka2l.augmentation.filters import Candidate, Verdict, copies, in_style, wordings
from ka2l.augmentation.near_copies import Embedded, near_copies
from ka2l.augmentation.question_style import QuestionStyle
from ka2l.common.answer_text import normalize_question
from ka2l.config.run_config import RunConfig
from ka2l.models.loading import pick_device
from ka2l.models.sentence_encoder import SentenceEncoder
from ka2l.pipeline.context import Context
from ka2l.pipeline.shared.decoded_candidates import Decoding
from ka2l.questions.geonames.resolver import Resolved, resolve
from ka2l.questions.question import Question

_STYLE_FROM = 20_000  # questions that show what a question looks like here
_BATCH = 4096
_Texts = Mapping[str, tuple[str, ...]]
_Facts = Mapping[str, Resolved | None]  # by candidate


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
    fact_of = _resolver(context)
    facts = {candidate.id: fact_of(candidate.question) for candidate in candidates}
    said = {normalize_question(candidate.question) for candidate in candidates}
    asked = {role: _those_said(context, role, said) for role in ("eval", "pool", "probe", "shot")}
    elsewhere = {**asked["probe"], **asked["shot"]}
    of_sources = wordings(sources)
    verdicts = in_style(candidates, _style(context))
    for look in (
        lambda left: copies(left, of_sources, asked["eval"], asked["pool"], elsewhere),
        lambda left: _same_fact(left, facts, context),
        lambda left: _answerable(left, facts, context.config),
        lambda left: _near(context, left, of_sources, facts),
    ):
        _judge(candidates, verdicts, look)
    groups = [_group(candidate, facts[candidate.id]) for candidate in candidates]
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


def _resolver(context: Context) -> Callable[[str], Resolved | None]:
    """What fact a question asks for, where that can be told."""
    if context.config.questions.source != "geonames":
        return lambda _question: None
    return resolve


def _group(candidate: Candidate, fact: Resolved | None) -> str:
    """Of a new question: its fact, else its own text."""
    return fact.fact if fact is not None and fact.own_name else normalize_question(candidate.question)


def _answerable(candidates: Sequence[Candidate], facts: _Facts, config: RunConfig) -> list[Verdict]:
    """Where no people answer, only what GeoNames can is of use."""
    people = config.annotate.annotator == "file"
    answered = (people or ((fact := facts[c.id]) is not None and fact.own_name) for c in candidates)
    return [Verdict("" if known else "no_answer") for known in answered]


def _same_fact(candidates: Sequence[Candidate], facts: _Facts, context: Context) -> list[Verdict]:
    """Candidates that ask in other words for a fact that has its question already, or that an earlier one asks for."""
    wanted = {fact.fact for candidate in candidates if (fact := facts[candidate.id]) is not None}
    known: dict[str, tuple[str, str]] = {}
    for reason, roles in (("in_eval", ["eval"]), ("in_pool", ["pool"]), ("elsewhere", ["probe", "shot"])):
        for role in roles:
            for batch in context.question_batches(role, _BATCH):
                for question in batch:
                    if question.group in wanted:
                        known.setdefault(question.group, (reason, question.id))
    verdicts = []
    for candidate in candidates:
        fact = facts[candidate.id]
        reason, twin = known.get(fact.fact, ("", "")) if fact is not None else ("", "")
        if reason and twin == candidate.source_id:
            reason = "source_again"
        verdicts.append(Verdict(reason, None, twin) if reason else Verdict())
        if fact is not None and fact.own_name and not reason:
            known[fact.fact] = ("twice", candidate.id)
    return verdicts


def _near(context: Context, candidates: Sequence[Candidate], sources: _Texts, facts: _Facts) -> list[Verdict]:
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
    told_apart = [c.id for c in candidates if (fact := facts[c.id]) is not None and fact.own_name]
    return near_copies(candidates, rows, references, settings.near_copy, told_apart)
