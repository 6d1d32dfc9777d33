"""The benefit of decoded questions (the paper's RQ3) on the embedded model, against real questions and paraphrases.

    python benchmarks/augmentation.py RUN sweep [sources] [candidates]
    python benchmarks/augmentation.py RUN [n] [seeds] [candidates]

RUN: a run on GeoNames with a decoder (`ka2l demo --augment --out RUN`, or `ka2l augment`). For each seed, n unknown
questions are drawn from its pool and the model is fine-tuned, from the same start, on

    unknown_n       those n
    decoded         those n, and up to n new ones decoded from their states (noise, temperature, filters as in RUN)
    paraphrased     those n, and n paraphrases of them by the language model itself, the cheap way to more questions
    unknown_2n      those n, and n more unknown ones of the pool

New questions are answered by GeoNames, never with the answer of their source. The results are the share of right
answers on held-out questions, and what was learned and forgotten. `sweep` only decodes: how noise, temperature and the
number of candidates change the numbers of copies, of questions that cannot be answered and of known ones. The last line
is JSON.
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
# Most candidates decoded from one state.
MOST = 32
_SHOTS = 4


class Labelled(NamedTuple):
    """A question and its answers: the first is trained on, all are accepted as right."""

    id: str
    question: str
    answers: tuple[str, ...]


def main(context: Context, n: int = 40, seeds: int = 3, candidates: int = 48) -> None:
    """Decode and paraphrase, then fine-tune and evaluate."""
    pool = {question.id: question for question in context.questions("pool")}
    unknown = unknown_ids(context)
    if len(unknown) < 2 * n:
        raise SystemExit(f"{len(unknown)} unknown questions in the pool; 2n = {2 * n} are needed")
    draws = [np.random.default_rng(seed).permutation(unknown)[: 2 * n].tolist() for seed in range(seeds)]
    decoder = run_decoder(context)
    new_of_seed = []
    for seed, drawn in enumerate(draws):
        sources = [pool[i] for i in drawn[:n]]
        new_of_seed.append(
            {
                "decoded": _decoded(context, decoder, sources, n, candidates, seed),
                "paraphrased": _paraphrased(context, sources, n, seed),
            }
        )
    del decoder
    added = [one for by_arm in new_of_seed for new in by_arm.values() for one in new.labelled]
    base = _right(context, [*map(_labelled, pool.values()), *_held_out(context), *added], None)
    rows = []
    for seed, drawn in enumerate(draws):
        first, second = ([_labelled(pool[i]) for i in part] for part in (drawn[:n], drawn[n:]))
        arms = {
            "unknown_n": [],
            **{name: new.labelled for name, new in new_of_seed[seed].items()},
            "unknown_2n": second,
        }
        for name, added in arms.items():
            row = {"seed": seed, "arm": name, **_evaluate_arm(context, first, added, base, seed)}
            rows.append(row)
            print(json.dumps(row), flush=True)
    result = {
        "n": n,
        "seeds": seeds,
        "decoder": {name: decoder_card(context)[name] for name in ("kind", "layer", "trained_on", "quality")},
        "new": [{name: new.facts for name, new in by_arm.items()} for by_arm in new_of_seed],
        "arms": {name: _summary([row for row in rows if row["arm"] == name]) for name in arms},
        "base_held_out": round(_share([base[t.id] for t in _held_out(context)]), 3),
    }
    print(json.dumps({"benchmark": "augmentation", **result}))


def decoder_card(context: Context) -> dict[str, Any]:
    """The card of the run's decoder."""
    card: dict[str, Any] = atomic_files.read_json(context.run.file("decoder") / "decoder.json")
    return card


def unknown_ids(context: Context) -> list[str]:
    """Ids of the pool's questions that are unknown according to the probe, in the order of the pool."""
    table = atomic_files.read_table(context.run.file("knowledge_map.parquet")).to_pydict()
    return [i for i, p in zip(table["question_id"], table["p_unknown"], strict=True) if p >= 0.5]


def sweep(context: Context, n: int = 40, candidates: int = 6) -> None:
    """Print counts of kept and dropped candidates for several noises, temperatures and numbers of candidates."""
    drawn = np.random.default_rng(0).permutation(unknown_ids(context))[:n].tolist()
    by_id = context.questions_by_id(set(drawn))
    sources = [by_id[i] for i in drawn]
    decoder = run_decoder(context)
    states = _states(context, sources)
    rows = []
    for noise in NOISES:
        for temperature in TEMPERATURES:
            decodings = _candidates(decoder, states, sources, range(1, 1 + candidates), noise, temperature, 0)
            kept, facts = _kept(context, sources, decodings)
            rows.append({"noise": noise, "temperature": temperature, "kept": len(kept), **facts})
            print(json.dumps(rows[-1]), flush=True)
    settings = context.config.augment
    many = _candidates(decoder, states, sources, range(1, 1 + MOST), settings.noise, settings.temperature, 0)
    by_k = []
    for k in (2, 4, 8, 16, MOST):
        kept, facts = _kept(context, sources, [one for one in many if one.sample <= k])
        by_k.append({"k": k, "kept": len(kept), **facts})
        print(json.dumps(by_k[-1]), flush=True)
    for row in (*rows, *by_k):
        del row["examples"]
    result = {"sources": n, "candidates": candidates, "sweep": rows, "by_k": by_k}
    print(json.dumps({"benchmark": "augmentation-sweep", **result}))


class New(NamedTuple):
    """New questions with their own answers, and counts of the candidates."""

    labelled: list[Labelled]
    facts: dict[str, Any]


def _decoded(
    context: Context, decoder: Decoder, sources: Sequence[Question], n: int, candidates: int, seed: int
) -> New:
    """Up to n kept questions decoded from the sources' states."""
    settings = context.config.augment
    states = _states(context, sources)
    decodings = _candidates(
        decoder, states, sources, range(1, candidates + 1), settings.noise, settings.temperature, seed
    )
    kept, facts = _kept(context, sources, decodings)
    labelled = [_labelled_by_geonames(d.id, d.text) for d, _ in kept[:n]]
    return New(labelled, {**facts, "taught": len(labelled)})


def _paraphrased(context: Context, sources: Sequence[Question], n: int, seed: int) -> New:
    """One paraphrase of each source, the first usable one of four samples of the base model with worked examples."""
    shots = [q for q in context.questions("decoder") if q.rewordings][:_SHOTS]
    worked = "".join(f"Question: {q.question}\nIn other words: {q.rewordings[0]}\n\n" for q in shots)
    head = "Ask the same question in other words.\n\n" + worked
    model = context.model()
    model.share_prefix(lambda text: f"{head}Question: {text}\nIn other words:")
    prompts = [Prompt(q.id, f"{head}Question: {q.question}\nIn other words:") for q in sources]
    common = _common_words(context)
    first_usable: dict[str, Labelled] = {}
    sampled_count = usable = 0
    for sampled in model.sample(
        prompts,
        dict.fromkeys(range(1, 5), 1.0),
        seed=seed,
        max_new_tokens=context.config.augment.max_new_tokens,
    ):
        source = next(q for q in sources if q.id == sampled.question_id)
        # A paraphrase with all words that name the place asks for the same place, so its answer is the same.
        name_words = _words(source.question) - common
        for answer_ in sampled.answers:
            sampled_count += 1
            text = answer_.text
            same = normalize_question(text) == normalize_question(source.question)
            if not same and name_words and name_words <= _words(text) and text.rstrip().endswith("?"):
                usable += 1
                first_usable.setdefault(source.id, Labelled(f"{source.id}~", text, source.answers))
    context.release()
    labelled = list(first_usable.values())[:n]
    return New(
        labelled,
        {
            "candidates": sampled_count,
            "usable": usable,
            "taught": len(labelled),
            "examples": [one.question for one in labelled[:5]],
        },
    )


def _words(text: str) -> set[str]:
    return set(normalize_answer(text).split())


def _common_words(context: Context) -> set[str]:
    """Words that are in at least one of fifty questions: words of the templates, not of places."""
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


def _kept(
    context: Context, sources: Sequence[Question], decodings: Sequence[Decoding]
) -> tuple[list[tuple[Decoding, float]], dict[str, Any]]:
    """The kept candidates with p_unknown, highest first, and counts of all candidates."""
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
            _share([t == normalize_question(d.source.question) for t, d in zip(texts, decodings, strict=True)]),
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


def _evaluate_arm(
    context: Context,
    first: Sequence[Labelled],
    added: Sequence[Labelled],
    base: dict[str, bool],
    seed: int,
) -> dict[str, Any]:
    """Fine-tune on the first and the added questions, and ask the held-out ones and those of the training."""
    config, prompts = context.config, context.prompts
    training = [*first, *added]
    examples = [Example(prompts.teaching(one.question), prompts.completion(one.answers[0]), one.id) for one in training]
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
        right = _right(context, [*held_out, *training], adapter)
    context.release()
    lost = [not right[t.id] for t in held_out if base[t.id]]
    return {
        "labels": len(training),
        "held_out": round(_share([right[t.id] for t in held_out]), 4),
        "forgotten": round(_share(lost), 4),
        "learned_first": sum(right[t.id] and not base[t.id] for t in first),
        "learned_added": sum(right[t.id] and not base[t.id] for t in added),
        "right_first": round(_share([right[t.id] for t in first]), 4),
        "right_added": round(_share([right[t.id] for t in added]), 4) if added else None,
    }


def _right(context: Context, asked: Sequence[Labelled], adapter: Path | None) -> dict[str, bool]:
    """Whether a model's greedy answer to each question is right, by id.

    The tuned model gets the teaching prompt. The base model gets the sensing prompt with worked examples, with which it
    answers far better (`ka2l evaluate` asks it both ways).
    """
    model = context.prepared_model(teaching=adapter is not None, adapter=adapter)
    build = context.prompts.sensing if adapter is None else context.prompts.teaching
    by_id = {t.id: t for t in asked}
    prompts = [Prompt(i, build(t.question)) for i, t in by_id.items()]
    answers = model.sample(prompts, {0: 0.0}, seed=0, max_new_tokens=context.config.evaluate.max_new_tokens)
    return {a.question_id: exact_match(a.answers[0].text, by_id[a.question_id].answers) for a in answers}


def _held_out(context: Context) -> list[Labelled]:
    return [_labelled(question) for question in context.questions("eval")]


def _labelled(question: Question) -> Labelled:
    return Labelled(question.id, question.question, question.answers)


def _labelled_by_geonames(name: str, text: str) -> Labelled:
    resolved = answer(text)
    # The filters have dropped questions that cannot be answered.
    assert resolved is not None
    return Labelled(name, text, resolved.answers)


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of each value over the seeds."""
    names = (
        "labels",
        "held_out",
        "forgotten",
        "learned_first",
        "learned_added",
        "right_first",
        "right_added",
    )
    summary: dict[str, Any] = {}
    for name in names:
        values = [row[name] for row in rows if row[name] is not None]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            summary[name] = [round(statistics.mean(values), 4), round(spread, 4)]
    return summary


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0


if __name__ == "__main__":
    opened = context_of(RunDirectory.open(Path(sys.argv[1])), Reporter(quiet=True))
    if sys.argv[2:3] == ["sweep"]:
        sweep(opened, *(int(argument) for argument in sys.argv[3:]))
    else:
        main(opened, *(int(argument) for argument in sys.argv[2:]))
