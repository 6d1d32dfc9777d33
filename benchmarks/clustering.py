"""Clustering by entailment: all pairs of answers, one question per batch, against only the pairs that are needed.

    python benchmarks/clustering.py [RUN] [NLI_FOLDER] [questions] [repeats]

RUN is a finished run directory, whose answers are clustered; without one (or with `-`) 64 GeoNames questions are
sampled with the embedded model. NLI_FOLDER (`-`: the default) is ../shared/models/nli-minilm; if it is missing, a model
of that size with random weights is used.

`plain` scores all ordered pairs of a question's N answers, one question per batch, and clusters the full matrix by
first match; `ours` is `cluster_by_meaning`. The two take turns; times are medians; equal clusters are asserted.
`over_floor` is our time divided by the time the tokens of our pairs (without padding) would take in all matrices of the
encoder, at the matrix rate measured in the same run. The last line is JSON.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from ka2l.common.atomic_files import read_table
from ka2l.knowledge.uncertainty.semantic_clusters import Clusters, Pair, Relation, cluster_by_meaning
from ka2l.models.embedded_model import model_folder
from ka2l.models.interface import Prompt
from ka2l.models.judges.entailment import EntailmentModel
from ka2l.models.loading import resolve
from ka2l.models.local.local_model import LocalModel
from ka2l.models.prompts import PromptBuilder
from ka2l.models.settings import ModelConfig, PromptConfig
from ka2l.pipeline.shared.artifact_tables import read_answers
from ka2l.questions.geonames.place_questions import geonames_rows
from ka2l.questions.settings import GeonamesConfig
from sampling import NEW_TOKENS, SAMPLES, TEMPERATURES, matrix_rate

# Questions and the answers to each.
Asked = list[tuple[str, list[str]]]
MINILM = Path(__file__).parents[2] / "shared" / "models" / "nli-minilm"


def main(run: str = "-", nli: str = "-", questions: str = "64", repeats: str = "3") -> None:
    """Time both on the same answers, in turns."""
    asked = _sampled() if run == "-" else _from_run(Path(run))
    asked = asked[:: max(1, len(asked) // int(questions))][: int(questions)]
    with tempfile.TemporaryDirectory() as temporary:
        if nli == "-":
            nli = str(MINILM if MINILM.exists() else _random_model(Path(temporary)))
        print(json.dumps(_compare(asked, nli, int(repeats))))


def _compare(asked: Asked, folder: str, repeats: int) -> dict[str, Any]:
    ours, plain = Ours(folder), Plain(folder)
    contenders: dict[str, Callable[[Asked], Clusters]] = {"ours": ours.cluster, "plain": plain.cluster}
    for cluster in contenders.values():
        # The first passes of a process are slower.
        cluster(asked[:3])
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    made: dict[str, Clusters] = {}
    rates = []
    for _ in range(repeats):
        for name, cluster in contenders.items():
            rates.append(matrix_rate())
            ours.tokens, ours.seconds, plain.seconds = 0, {"judge": 0.0, "tokenize": 0.0}, {"tokenize": 0.0}
            started = time.perf_counter()
            made[name] = cluster(asked)
            times[name].append(time.perf_counter() - started)
            if name == "ours":
                tokens, parts = ours.tokens, ours.seconds
    assert made["ours"].ids == made["plain"].ids, "the two ways give different clusters"
    seconds = {name: statistics.median(taken) for name, taken in times.items()}
    rate = statistics.median(rates)
    weights = sum(p.numel() for p in ours.model.base_model.encoder.parameters())
    floor = tokens * 2 * weights / rate
    result = {
        "pairs_ratio": made["plain"].pairs / made["ours"].pairs,
        "time_ratio": seconds["plain"] / seconds["ours"],
        "over_floor": seconds["ours"] / floor,
        "seconds_ours": seconds["ours"],
        "seconds_ours_tokenize": parts["tokenize"],
        "seconds_ours_passes": parts["judge"] - parts["tokenize"],
        "seconds_ours_bookkeeping": times["ours"][-1] - parts["judge"],
        "seconds_plain": seconds["plain"],
        "seconds_plain_tokenize": plain.seconds["tokenize"],
    }
    about = {
        "benchmark": "clustering",
        "questions": len(asked),
        "repeats": repeats,
        "gflops": round(rate / 1e9),
    }
    about |= {f"pairs_{name}": clusters.pairs for name, clusters in made.items()} | {"tokens_ours": tokens}
    return about | {name: round(value, 3) for name, value in result.items()}


class Ours(EntailmentModel):
    """The judge of a run, which also measures its time and counts its tokens."""

    tokens = 0

    def __init__(self, folder: str):
        self.seconds = {"judge": 0.0, "tokenize": 0.0}
        super().__init__(folder)

    def cluster(self, asked: Asked) -> Clusters:
        return cluster_by_meaning([question for question, _ in asked], [answers for _, answers in asked], self)

    def relations(self, pairs: Sequence[Pair]) -> list[Relation]:
        started = time.perf_counter()
        relations = super().relations(pairs)
        self.seconds["judge"] += time.perf_counter() - started
        return relations

    def _encode(self, pairs: Sequence[Pair]) -> list[tuple[list[int], list[int]]]:
        started = time.perf_counter()
        encoded = super()._encode(pairs)
        self.seconds["tokenize"] += time.perf_counter() - started
        self.tokens += sum(len(ids) for ids, _ in encoded)
        return encoded


class Plain:
    """The usual way: all ordered pairs of a question in one batch, then first match over the matrix."""

    def __init__(self, folder: str):
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.entailment = {label.lower(): i for i, label in self.model.config.id2label.items()}["entailment"]
        self.seconds = {"tokenize": 0.0}

    def cluster(self, asked: Asked) -> Clusters:
        ids = [_first_match(len(answers), self._entailed(question, answers)) for question, answers in asked]
        return Clusters(ids, sum(len(answers) * (len(answers) - 1) for _, answers in asked))

    def _entailed(self, question: str, answers: list[str]) -> dict[tuple[int, int], bool]:
        pairs = [(i, j) for i in range(len(answers)) for j in range(len(answers)) if i != j]
        texts = [f"{question} {answer.strip()}" for answer in answers]
        started = time.perf_counter()
        batch = self.tokenizer(
            [texts[i] for i, _ in pairs],
            [texts[j] for _, j in pairs],
            padding=True,
            truncation=True,
            return_tensors="pt",
        )
        self.seconds["tokenize"] += time.perf_counter() - started
        labels = self.model(**batch).logits.argmax(dim=-1).tolist()
        judged = {pair: label == self.entailment for pair, label in zip(pairs, labels, strict=True)}
        # Equal answers mean the same, whatever the judgement is.
        return {(i, j): yes or answers[i].strip() == answers[j].strip() for (i, j), yes in judged.items()}


def _first_match(count: int, entailed: dict[tuple[int, int], bool]) -> list[int]:
    ids: list[int] = []
    founders: list[int] = []
    for i in range(count):
        matches = (n for n, f in enumerate(founders) if entailed[f, i] and entailed[i, f])
        ids.append(next(matches, len(founders)))
        if ids[-1] == len(founders):
            founders.append(i)
    return ids


def _from_run(run: Path) -> Asked:
    rows = read_table(run / "questions.parquet", ["id", "question"]).to_pylist()
    texts = {row["id"]: row["question"] for row in rows}
    answers = read_answers(run / "answers", SAMPLES)
    return [
        (texts[name].strip(), [row["text"] for number, row in rows.items() if number])
        for name, rows in sorted(answers.items())
    ]


def _sampled(count: int = 64) -> Asked:
    """Sampled answers of the embedded model to GeoNames questions of every kind."""
    config = ModelConfig()
    model, builder = LocalModel.load(config, resolve(config)), PromptBuilder(PromptConfig())
    kinds = ("capitals", "currencies", "large_cities", "middle_cities", "small_cities")
    rows = geonames_rows(GeonamesConfig(**dict.fromkeys(kinds, -(-count // len(kinds)))), seed=0)[:count]
    model.share_prefix(builder.sensing)
    prompts = [Prompt(row.id, builder.sensing(row.question)) for row in rows]
    made = model.sample(prompts, TEMPERATURES, seed=0, max_new_tokens=NEW_TOKENS)
    answers = {result.question_id: [answer.text for answer in result.answers[1:]] for result in made}
    return [(row.question, answers[row.id]) for row in rows]


def _random_model(folder: Path) -> Path:
    """A model of MiniLM's size and speed with random judgements. It has the embedded model's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(folder)
    labels = {0: "contradiction", 1: "neutral", 2: "entailment"}
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        pad_token_id=tokenizer.pad_token_id,
        id2label=labels,
        label2id={label: i for i, label in labels.items()},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    with torch.inference_mode():
        main(*sys.argv[1:])
