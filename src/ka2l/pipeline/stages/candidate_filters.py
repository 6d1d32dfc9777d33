"""The filters that drop decoded questions before the probe is applied, run on the questions of a run.

They check, in this order: the form of a question, equal texts, the same fact in another wording (only for GeoNames,
where facts can be identified), whether the question can be answered, and similar texts.
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

# The style of questions is learned from at most this many.
_STYLE_QUESTIONS = 20_000
_BATCH = 4096
_Texts = Mapping[str, tuple[str, ...]]
# The fact a candidate asks for, by the candidate's id.
_Facts = Mapping[str, Resolved | None]


class FilteredCandidates(NamedTuple):
    """The verdict on each candidate, and its group."""

    verdicts: list[Verdict]
    # The fact a candidate asks for if it can be identified, else the candidate's own text.
    groups: list[str]


def filter_candidates(context: Context, sources: Sequence[Question], decoded: Sequence[Decoding]) -> FilteredCandidates:
    """Find the first reason to drop each decoded question, if there is one.

    Args:
        context: context of the run; a decoded question may not repeat its questions.
        sources: the questions whose hidden states were decoded.
        decoded: the candidates; of equal ones the first is kept.
    """
    candidates = [Candidate(one.id, one.source.id, one.text, one.finished) for one in decoded]
    fact_of = _resolver(context)
    facts = {candidate.id: fact_of(candidate.question) for candidate in candidates}
    texts = {normalize_question(candidate.question) for candidate in candidates}
    repeated = {role: _repeated_questions(context, role, texts) for role in ("eval", "pool", "probe", "shot")}
    elsewhere = {**repeated["probe"], **repeated["shot"]}
    of_sources = wordings(sources)
    verdicts = in_style(candidates, _style(context))
    for rule in (
        lambda left: copies(left, of_sources, repeated["eval"], repeated["pool"], elsewhere),
        lambda left: _same_fact(left, facts, context),
        lambda left: _answerable(left, facts, context.config),
        lambda left: _near(context, left, of_sources, facts),
    ):
        _apply_filter(rule, candidates, verdicts)
    groups = [_group(candidate, facts[candidate.id]) for candidate in candidates]
    return FilteredCandidates(verdicts, groups)


def _apply_filter(
    rule: Callable[[Sequence[Candidate]], Sequence[Verdict]],
    candidates: Sequence[Candidate],
    verdicts: list[Verdict],
) -> None:
    """Apply one filter rule to the candidates that the earlier filters have not dropped."""
    left = [i for i, verdict in enumerate(verdicts) if not verdict.reason]
    for i, verdict in zip(left, rule([candidates[i] for i in left]), strict=True):
        verdicts[i] = verdict


def _repeated_questions(context: Context, role: str, candidate_texts: set[str]) -> _Texts:
    """Wordings of the questions of a role that a candidate repeats. Others do not matter, and the pool is not kept."""
    return {
        i: texts
        for batch in context.question_batches(role, _BATCH)
        for i, texts in wordings(batch).items()
        if any(normalize_question(text) in candidate_texts for text in texts)
    }


def _style(context: Context) -> QuestionStyle:
    """The style of the questions the decoder was trained on; for a pretrained decoder, of the pool."""

    def texts(role: str) -> Iterator[str]:
        return (q.question for batch in context.question_batches(role, _BATCH) for q in batch)

    trained_on = list(islice(texts("decoder"), _STYLE_QUESTIONS))
    return QuestionStyle.learn(trained_on or islice(texts("pool"), _STYLE_QUESTIONS))


def _resolver(context: Context) -> Callable[[str], Resolved | None]:
    """A function from a question's text to the fact it asks for; None if that cannot be identified."""
    if not context.config.questions.is_geonames:
        return lambda _question: None
    return resolve


def _group(candidate: Candidate, fact: Resolved | None) -> str:
    """The group of a candidate: its fact, else its own text."""
    return fact.fact if fact is not None and fact.own_name else normalize_question(candidate.question)


def _answerable(candidates: Sequence[Candidate], facts: _Facts, config: RunConfig) -> list[Verdict]:
    """Drop candidates that cannot be answered: those GeoNames cannot answer, unless people answer."""
    people = config.annotate.annotator == "file"
    answerable = (people or ((fact := facts[c.id]) is not None and fact.own_name) for c in candidates)
    return [Verdict("" if possible else "no_answer") for possible in answerable]


def _same_fact(candidates: Sequence[Candidate], facts: _Facts, context: Context) -> list[Verdict]:
    """Drop candidates that ask, in another wording, for the fact of a question of the run or of an earlier
    candidate.
    """
    wanted = {fact.fact for candidate in candidates if (fact := facts[candidate.id]) is not None}
    # By fact: the reason to drop a candidate, and the id of the question or candidate that asks for it.
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
    """Drop candidates with texts similar to others.

    A candidate whose fact is identified is kept: it asks for another fact, however similar the names are.
    """
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
    with_fact = [c.id for c in candidates if (fact := facts[c.id]) is not None and fact.own_name]
    return near_copies(candidates, rows, references, settings.near_copy, with_fact)
