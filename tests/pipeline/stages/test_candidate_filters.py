"""What is kept of decoded questions about places: nothing that was asked before, in whatever words."""

import pytest

from ka2l.config.recipes import load_config
from ka2l.pipeline.context import Context
from ka2l.pipeline.run import context_of, run_verb
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.shared.decoded_candidates import Decoding
from ka2l.pipeline.stages.candidate_filters import filter_candidates
from ka2l.questions.geonames.resolver import resolve
from ka2l.questions.question import Question
from runs import RecordingReporter
from tiny import TinyWorld


@pytest.fixture(scope="module")
def context(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A run with questions about places, loaded and no more."""
    settings = [
        f"model.name={tiny_world.folder}",
        "questions.source=geonames",
        "questions.geonames={capitals: 60, currencies: 0, large_cities: 60, middle_cities: 0, small_cities: 0, "
        "decoder: 40}",
        "questions.roles={probe: 30, pool: 50, eval: 30}",
        "augment.per_question=4",
    ]
    directory = RunDirectory.create(tmp_path_factory.mktemp("sieve") / "run", load_config(None, settings))
    run_verb("load", directory, RecordingReporter())
    return context_of(directory, RecordingReporter())


@pytest.fixture(scope="module")
def by_role(context: Context) -> dict[str, list[Question]]:
    return {role: context.questions(role) for role in ("probe", "pool", "eval", "decoder", "shot")}


def judged(context: Context, source: Question, texts: list[str], *, finished: bool = True) -> list[str]:
    found = [Decoding(source, i, text, finished) for i, text in enumerate(texts)]
    return [verdict.reason for verdict in filter_candidates(context, [source], found).verdicts]


def _with_article(question: str) -> str:
    """Another text with the same words that count."""
    return (
        question.replace(" of ", " of the ", 1)
        if " of the " not in question
        else question.replace(" of the ", " of ", 1)
    )


def test_each_reason_is_found_and_the_first_one_counts(context: Context, by_role: dict[str, list[Question]]) -> None:
    source = next(q for q in by_role["pool"] if q.meta["kind"] == "city")
    held_out, other = by_role["eval"][0], next(q for q in by_role["pool"] if q.id != source.id)
    new = by_role["decoder"][0]
    expected = {
        source.question: "source_again",
        _with_article(source.question): "source_again",
        held_out.question: "in_eval",
        _with_article(held_out.question): "in_eval",  # the words of the test are not its only ones
        other.question.upper(): "in_pool",
        _with_article(by_role["probe"][0].question): "elsewhere",
        held_out.rewordings[0]: "not_a_question",  # the decoder has learned no question that begins so
        by_role["shot"][0].question: "elsewhere",
        "In which country is the city of Khashusar?": "no_answer",
        "In which country is the city of": "not_a_question",
        "In which country is the city of \ufffd?": "not_a_question",
        new.question: "",
        _with_article(new.question): "twice",
    }
    assert dict(zip(expected, judged(context, source, list(expected)), strict=True)) == expected
    assert judged(context, source, [new.question], finished=False) == ["unfinished"]


def test_people_may_know_a_place_that_geonames_does_not(context: Context, by_role: dict[str, list[Question]]) -> None:
    people = RunDirectory.open(context.run.path, ["annotate.annotator=file"])
    texts = ["In which country is the city of Khashusar?"]
    assert judged(context_of(people, RecordingReporter()), by_role["pool"][0], texts) == [""]


def test_a_new_question_has_the_group_of_its_fact(context: Context, by_role: dict[str, list[Question]]) -> None:
    source, new = by_role["pool"][0], by_role["decoder"][0]
    found = [Decoding(source, 1, _with_article(new.question), True), Decoding(source, 2, "Nonsense", True)]
    assert filter_candidates(context, [source], found).groups == [new.group, "nonsense"]
    resolved = resolve(_with_article(new.question))
    assert resolved is not None
    assert resolved.answers == new.answers


def test_without_embeddings_only_equal_texts_and_facts_are_copies(
    context: Context, by_role: dict[str, list[Question]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ka2l.pipeline.stages.candidate_filters.SentenceEncoder", None)  # it must not be asked for
    plain = context_of(RunDirectory.open(context.run.path, ["augment.embedding_model="]), RecordingReporter())
    assert judged(plain, by_role["pool"][0], [by_role["decoder"][0].question]) == [""]


def test_the_decoders_questions_come_besides_the_others(
    by_role: dict[str, list[Question]],
) -> None:
    assert {role: len(questions) for role, questions in by_role.items()} == {
        "probe": 30, "pool": 50, "eval": 30, "decoder": 40, "shot": 5,
    }  # fmt: skip
    groups = [question.group for questions in by_role.values() for question in questions]
    assert len(set(groups)) == len(groups)
