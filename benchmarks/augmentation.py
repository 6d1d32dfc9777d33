"""Is decoding worth it? The paper's RQ3 on the embedded model, against real questions and against paraphrases.

    python benchmarks/augmentation.py RUN sweep [sources] [candidates]
    python benchmarks/augmentation.py RUN [n] [seeds] [candidates]

RUN: a run on GeoNames with a decoder (`ka2l demo --augment --out RUN`, or `ka2l augment`). For each seed, n unknown
questions are drawn from its pool and the model is taught, from the same start,

    unknown_n       those n
    decoded         those n, and up to n new ones decoded from their states (noise, temperature, filters as RUN has them)
    paraphrased     those n, and n paraphrases of them by the language model itself, the cheap way to more questions
    unknown_2n      those n, and n more unknown ones of the pool

New questions are answered by GeoNames, never by the answer of their source. Shown: right on held-out questions, learned,
forgotten. `sweep` only decodes: what noise, temperature and number of candidates cost in copies and in questions nobody can answer or the model
knows. One JSON line last.
"""

import json
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from numpy.typing import NDArray

from ka2l import RunDirectory
from ka2l.augmentation.decoder import Decoder
from ka2l.augmentation.filters import funnel
from ka2l.common import atomic_files
from ka2l.common.answer_text import exact_match, normalize_answer, normalize_question
from ka2l.common.progress import Reporter
from ka2l.models.interface import Prompt
from ka2l.pipeline.context import Context
from ka2l.pipeline.run import context_of
from ka2l.pipeline.shared.decoded_candidates import Decoding
from ka2l.pipeline.shared.run_decoder import probed_state, run_decoder
from ka2l.pipeline.stages.augment import predict_p_unknown
from ka2l.pipeline.stages.candidate_filters import filter_candidates
from ka2l.questions.geonames.resolver import answer
from ka2l.questions.question import Question
from ka2l.teaching.finetuning.lora import Example, ModelPlace, finetune

NOISES = (0.0, 0.15, 0.3, 0.6, 1.0)
TEMPERATURES = (0.0, 0.5, 1.0)
MOST = 32  # candidates from one state
_SHOTS = 4


class Taught(NamedTuple):
    """A question and what is taught and accepted as its answer."""

    id: str
    question: str
    answers: tuple[str, ...]


def main(context: Context, n: int = 40, seeds: int = 3, candidates: int = 48) -> None:
    """Decode and paraphrase, then teach and ask."""
    pool = {question.id: question for question in context.questions("pool")}
    unknown = unknown_ids(context)
    if len(unknown) < 2 * n:
        raise SystemExit(f"{len(unknown)} unknown questions in the pool; 2n = {2 * n} are needed")
    draws = [np.random.default_rng(seed).permutation(unknown)[: 2 * n].tolist() for seed in range(seeds)]
    decoder = run_decoder(context)
    more = []
    for seed, drawn in enumerate(draws):
        sources = [pool[i] for i in drawn[:n]]
        more.append(
            {
                "decoded": _decoded(context, decoder, sources, n, candidates, seed),
                "paraphrased": _paraphrased(context, sources, n, seed),
            }
        )
    del decoder
    added = [taught for one in more for new in one.values() for taught in new.taught]
    base = _right(context, [*map(_of, pool.values()), *_held_out(context), *added], None)
    rows = []
    for seed, drawn in enumerate(draws):
        first, second = ([_of(pool[i]) for i in part] for part in (drawn[:n], drawn[n:]))
        arms = {
            "unknown_n": [],
            **{name: new.taught for name, new in more[seed].items()},
            "unknown_2n": second,
        }
        for name, added in arms.items():
            row = {"seed": seed, "arm": name, **_teach(context, [*first, *added], first, added, base, seed)}
            rows.append(row)
            print(json.dumps(row), flush=True)
    result = {
        "n": n,
        "seeds": seeds,
        "decoder": {name: decoder_card(context)[name] for name in ("kind", "layer", "trained_on", "quality")},
        "new": [{name: new.facts for name, new in one.items()} for one in more],
        "arms": {name: _summary([row for row in rows if row["arm"] == name]) for name in arms},
        "base_held_out": round(_share([base[t.id] for t in _held_out(context)]), 3),
    }
    print(json.dumps({"benchmark": "augmentation", **result}))


def decoder_card(context: Context) -> dict[str, Any]:
    """Of the run's decoder."""
    card: dict[str, Any] = atomic_files.read_json(context.run.file("decoder") / "decoder.json")
    return card


def unknown_ids(context: Context) -> list[str]:
    """Pool questions the probe calls unknown, in the order of the pool."""
    table = atomic_files.read_table(context.run.file("knowledge_map.parquet")).to_pydict()
    return [i for i, p in zip(table["question_id"], table["p_unknown"], strict=True) if p >= 0.5]


def sweep(context: Context, n: int = 40, candidates: int = 6) -> None:
    """What noise, temperature and their number do to the candidates: copies, questions GeoNames can place, still unknown ones."""
    drawn = np.random.default_rng(0).permutation(unknown_ids(context))[:n].tolist()
    by_id = context.questions_by_id(set(drawn))
    sources = [by_id[i] for i in drawn]
    decoder = run_decoder(context)
    states = _states(context, sources)
    found = []
    for noise in NOISES:
        for temperature in TEMPERATURES:
            decodings = _candidates(decoder, states, sources, range(1, 1 + candidates), noise, temperature, 0)
            kept, facts = _sift(context, sources, decodings)
            found.append({"noise": noise, "temperature": temperature, "kept": len(kept), **facts})
            print(json.dumps(found[-1]), flush=True)
    settings = context.config.augment
    many = _candidates(decoder, states, sources, range(1, 1 + MOST), settings.noise, settings.temperature, 0)
    by_k = []
    for k in (2, 4, 8, 16, MOST):
        kept, facts = _sift(context, sources, [one for one in many if one.sample <= k])
        by_k.append({"k": k, "kept": len(kept), **facts})
        print(json.dumps(by_k[-1]), flush=True)
    for row in (*found, *by_k):
        del row["examples"]
    result = {"sources": n, "candidates": candidates, "sweep": found, "by_k": by_k}
    print(json.dumps({"benchmark": "augmentation-sweep", **result}))


class New(NamedTuple):
    """New questions with answers of their own, and what became of the candidates."""

    taught: list[Taught]
    facts: dict[str, Any]


def _decoded(
    context: Context, decoder: Decoder, sources: Sequence[Question], n: int, candidates: int, seed: int
) -> New:
    settings = context.config.augment
    states = _states(context, sources)
    decodings = _candidates(
        decoder, states, sources, range(1, candidates + 1), settings.noise, settings.temperature, seed
    )
    kept, facts = _sift(context, sources, decodings)
    return New([_placed(d.id, d.text) for d, _ in kept[:n]], {**facts, "taught": min(n, len(kept))})


def _paraphrased(context: Context, sources: Sequence[Question], n: int, seed: int) -> New:
    """One in other words of each, by the base model with worked examples; asked again until it is another text."""
    shots = [q for q in context.questions("decoder") if q.rewordings][:_SHOTS]
    worked = "".join(f"Question: {q.question}\nIn other words: {q.rewordings[0]}\n\n" for q in shots)
    head = "Ask the same question in other words.\n\n" + worked
    model = context.model()
    model.share_prefix(lambda text: f"{head}Question: {text}\nIn other words:")
    prompts = [Prompt(q.id, f"{head}Question: {q.question}\nIn other words:") for q in sources]
    common = _common_words(context)
    found: dict[str, Taught] = {}
    made = usable = 0
    for sampled in model.sample(
        prompts,
        dict.fromkeys(range(1, 5), 1.0),
        seed=seed,
        max_new_tokens=context.config.augment.max_new_tokens,
    ):
        source = next(q for q in sources if q.id == sampled.question_id)
        # Whatever the wording, it asks for the same place if all words that name it are there, and its answer is the same.
        named = _words(source.question) - common
        for said in sampled.answers:
            made += 1
            same = normalize_question(said.text) == normalize_question(source.question)
            if not same and named and named <= _words(said.text) and said.text.rstrip().endswith("?"):
                usable += 1
                found.setdefault(source.id, Taught(f"{source.id}~", said.text, source.answers))
    context.release()
    taught = list(found.values())[:n]
    return New(
        taught,
        {
            "candidates": made,
            "usable": usable,
            "taught": len(taught),
            "examples": [t.question for t in taught[:5]],
        },
    )


def _words(text: str) -> set[str]:
    return set(normalize_answer(text).split())


def _common_words(context: Context) -> set[str]:
    """Words of one question in fifty and more: those of the templates, not of places."""
    questions = context.questions("decoder")
    counts = Counter(word for question in questions for word in _words(question.question))
    return {word for word, times in counts.items() if times >= len(questions) / 50}


def _candidates(
    decoder: Decoder,
    states: NDArray[np.float32],
    sources: Sequence[Question],
    samples: range,
    noise: float,
    temperature: float,
    seed: int,
) -> list[Decoding]:
    several = decoder.decode(
        states,
        [q.id for q in sources],
        samples,
        noise=noise,
        temperature=temperature,
        seed=seed,
        max_new_tokens=48,
    )
    return [
        Decoding(source, decoded.sample, decoded.text, decoded.finished)
        for source, row in zip(sources, several, strict=True)
        for decoded in row
    ]


def _sift(
    context: Context, sources: Sequence[Question], decodings: Sequence[Decoding]
) -> tuple[list[tuple[Decoding, float]], dict[str, Any]]:
    """The kept ones, surest unknown first, and what became of the others."""
    verdicts, _groups = filter_candidates(context, sources, decodings)
    p_unknown = predict_p_unknown(context, context.prepared_model(), decodings, verdicts)
    kept = sorted(
        ((decodings[i], p) for i, p in p_unknown.items() if p >= 0.5), key=lambda pair: (-pair[1], pair[0].id)
    )
    texts = [normalize_question(d.text) for d in decodings]
    facts = {
        "candidates": len(decodings),
        "distinct": round(len(set(texts)) / len(texts), 3),
        "copies": round(
            _share(
                [t == normalize_question(d.source.question) for t, d in zip(texts, decodings, strict=True)]
            ),
            3,
        ),
        "asked_again": len(p_unknown),
        "still_unknown": round(_share([p >= 0.5 for p in p_unknown.values()]), 3),
        "dropped": {name: count for name, count in funnel(verdicts).items() if count and name != "kept"},
        "sources_with_new": len({d.source.id for d, _ in kept}),
        "examples": [(d.source.question, d.text) for d, _ in kept[:5]],
    }
    return kept, facts


def _states(context: Context, sources: Sequence[Question]) -> NDArray[np.float32]:
    layer, position = probed_state(context)
    prompts = [Prompt(q.id, context.prompts.sensing(q.question)) for q in sources]
    return context.prepared_model().states(prompts, layer, position=position)


def _teach(
    context: Context,
    taught: Sequence[Taught],
    first: Sequence[Taught],
    added: Sequence[Taught],
    base: dict[str, bool],
    seed: int,
) -> dict[str, Any]:
    """Fine-tune and ask: the held-out questions, what was taught, and the rest of the pool."""
    config, prompts = context.config, context.prompts
    examples = [Example(prompts.teaching(t.question), prompts.completion(t.answers[0]), t.id) for t in taught]
    held_out = _held_out(context)
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter"
        finetune(
            ModelPlace(context.resolved.path),
            examples,
            config.finetune,
            adapter,
            Path(folder) / "checkpoints",
            seed=seed,
        )
        right = _right(context, [*held_out, *taught], adapter)
    context.release()
    lost = [not right[t.id] for t in held_out if base[t.id]]
    return {
        "labels": len(taught),
        "held_out": round(_share([right[t.id] for t in held_out]), 4),
        "forgotten": round(_share(lost), 4),
        "learned_first": sum(right[t.id] and not base[t.id] for t in first),
        "learned_added": sum(right[t.id] and not base[t.id] for t in added),
        "right_first": round(_share([right[t.id] for t in first]), 4),
        "right_added": round(_share([right[t.id] for t in added]), 4) if added else None,
    }


def _right(context: Context, asked: Sequence[Taught], adapter: Path | None) -> dict[str, bool]:
    """Whether a model answers each right, greedily: the tuned one with the teaching prompt, the base one with worked examples,

    which serve it far better (`ka2l evaluate` asks it both ways).
    """
    model = context.prepared_model(teaching=adapter is not None, adapter=adapter)
    build = context.prompts.sensing if adapter is None else context.prompts.teaching
    by_id = {t.id: t for t in asked}
    prompts = [Prompt(i, build(t.question)) for i, t in by_id.items()]
    answers = model.sample(prompts, {0: 0.0}, seed=0, max_new_tokens=context.config.evaluate.max_new_tokens)
    return {a.question_id: exact_match(a.answers[0].text, by_id[a.question_id].answers) for a in answers}


def _held_out(context: Context) -> list[Taught]:
    return [_of(question) for question in context.questions("eval")]


def _of(question: Question) -> Taught:
    return Taught(question.id, question.question, question.answers)


def _placed(name: str, text: str) -> Taught:
    resolved = answer(text)
    assert resolved is not None  # the sieve has dropped those nobody can answer
    return Taught(name, text, resolved.answers)


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds."""
    names = (
        "labels",
        "held_out",
        "forgotten",
        "learned_first",
        "learned_added",
        "right_first",
        "right_added",
    )
    found: dict[str, Any] = {}
    for name in names:
        values = [row[name] for row in rows if row[name] is not None]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            found[name] = [round(statistics.mean(values), 4), round(spread, 4)]
    return found


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0


if __name__ == "__main__":
    opened = context_of(RunDirectory.open(Path(sys.argv[1])), Reporter(quiet=True))
    if sys.argv[2:3] == ["sweep"]:
        sweep(opened, *(int(argument) for argument in sys.argv[3:]))
    else:
        main(opened, *(int(argument) for argument in sys.argv[2:]))
