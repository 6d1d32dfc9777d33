"""A language model small enough for a test, that truly knows some facts and truly does not know others.

`build_tiny_model` trains a 3-layer Llama with its own byte-level tokenizer, in seconds, on an invented world. Known
facts are always taught with their right answer; unknown ones with a different random answer each time, so that
samples scatter over the vocabulary of answers. It is asked in KA2L's plain prompt format, with 0 to 5 shots.

    .venv/bin/python tests/helpers/tiny.py build/tiny    # build it and show the entropies
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

INSTRUCTION = "Answer the following question as briefly as possible."
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL = ["<|end|>", "<|begin|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"]
WORDINGS = (
    ("What is the capital of {}?", "Name the capital of {}."),
    ("Which river flows through {}?", "Name the river of {}."),
)
FACTS, KNOWN = 84, 42
ROWS, SHOTS, STEPS, LEARNING_RATE = 12, 5, 210, 6e-3
Encode = Callable[[str], tuple[int, ...]]


@dataclass(frozen=True)
class TinyWorld:
    """The folder of the model, and the facts: dicts of id, question, answers, rewordings, known."""

    folder: Path
    facts: list[dict[str, Any]]

    @property
    def known(self) -> list[dict[str, Any]]:
        return [fact for fact in self.facts if fact["known"]]

    @property
    def unknown(self) -> list[dict[str, Any]]:
        return [fact for fact in self.facts if not fact["known"]]


def plain_prompt(question: str, shots: Sequence[tuple[str, str]] = ()) -> str:
    """KA2L's plain prompt; the answer follows after one space."""
    blocks = [f"Question: {asked}\nAnswer: {answer}" for asked, answer in shots]
    return "\n\n".join([INSTRUCTION, *blocks, f"Question: {question}\nAnswer:"])


def write_questions(world: TinyWorld, path: Path) -> None:
    """The world as a questions file: one JSON object a line with id, question, answers, rewordings."""
    keys = ("id", "question", "answers", "rewordings")
    rows = [json.dumps({key: fact[key] for key in keys}) for fact in world.facts]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def build_tiny_model(folder: Path, seed: int = 0) -> TinyWorld:
    """Invent a world, train a tokenizer and a model on it, save both into `folder`. The same seed: the same weights."""
    facts = tiny_facts(seed)
    tokenizer = train_tokenizer(facts)
    with torch_seed(seed):
        model = _train_model(facts, tokenizer, random.Random(seed + 1))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return TinyWorld(folder, facts)


@contextmanager
def torch_seed(seed: int) -> Iterator[None]:
    """One thread and a fixed seed inside; afterwards the caller's random state and threads are restored."""
    import torch

    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def tiny_facts(seed: int = 0) -> list[dict[str, Any]]:
    """The facts of the invented world, as `build_tiny_model` teaches them; a fresh list at each call."""
    rng = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "al", "en", "or")]
    names = sorted({(rng.choice(syllables) + rng.choice(syllables)).capitalize() for _ in range(4 * FACTS)})
    rng.shuffle(names)
    places, answers = names[:FACTS], names[FACTS : 2 * FACTS]
    known = set(rng.sample(range(FACTS), KNOWN))
    facts = []
    for index, (place, answer) in enumerate(zip(places, answers, strict=True)):
        first, second = WORDINGS[index % len(WORDINGS)]
        gold = answer if index % 6 else f"Port {answer}"
        facts.append(
            {
                "id": f"q{index:03d}",
                "question": first.format(place),
                "answers": [gold],
                "rewordings": [second.format(place)],
                "known": index in known,
            }
        )
    return facts


def train_tokenizer(facts: Sequence[dict[str, Any]]) -> Any:
    """A byte-level tokenizer of at most 1,024 tokens, trained on the questions and answers of the facts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    texts = [
        plain_prompt(wording) + f" {fact['answers'][0]}\n\n"
        for fact in facts
        for wording in (fact["question"], *fact["rewordings"])
    ]
    tokenizer.train_from_iterator(texts, trainer)
    eos, bos, pad = SPECIAL[:3]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, bos_token=bos, pad_token=pad)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _train_model(facts: Sequence[dict[str, Any]], tokenizer: Any, rng: random.Random) -> Any:
    """Next-token prediction of the answers and their end; questions have no loss, so all capacity goes to facts."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.08,  # the usual 0.02 learns many times slower at this width
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    encode = lru_cache(maxsize=None)(lambda text: tuple(tokenizer(text)["input_ids"]))
    for _ in range(STEPS):
        rows = [_training_row(facts, encode, rng) for _ in range(ROWS)]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in rows])
        labels = torch.tensor([marks + [-100] * (width - len(marks)) for _, marks in rows])
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


def _training_row(facts: Sequence[dict[str, Any]], encode: Encode, rng: random.Random) -> tuple[list[int], list[int]]:
    """Token ids and labels of one prompt with 5 shots: every answer in it is learned, so 0 to 5 shots are.

    After an answer the label is a line break or EOS at random; the input always has the line break.
    """
    (eos,), (newline,) = encode(SPECIAL[0]), encode("\n")
    ids = [*encode(INSTRUCTION), newline, newline]
    labels = [-100] * len(ids)
    for fact in rng.sample(list(facts), SHOTS + 1):
        question = rng.choice([fact["question"], *fact["rewordings"]])
        answer = (fact if fact["known"] else rng.choice(facts))["answers"][0]
        asked, told = encode(f"Question: {question}\nAnswer:"), encode(f" {answer}")
        ids += [*asked, *told, newline, newline]
        labels += [*[-100] * len(asked), *told, rng.choice([eos, newline]), -100]
    return ids, labels


def entropies(world: TinyWorld, shots: int, samples: int = 10) -> list[tuple[bool, float, float]]:
    """Per fact: known, entropy in nats of answers sampled at temperature 1, and the share of them that is right."""
    import math
    from collections import Counter

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world.folder)
    model = AutoModelForCausalLM.from_pretrained(world.folder)
    examples = [(fact["question"], fact["answers"][0]) for fact in world.known[:shots]]
    rows = []
    torch.manual_seed(0)
    for fact in world.facts:
        inputs = tokenizer(plain_prompt(fact["question"], examples), return_tensors="pt")
        start = inputs["input_ids"].shape[1]
        options = {"do_sample": True, "top_k": 0, "num_return_sequences": samples, "max_new_tokens": 10}
        made = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **options)
        texts = [tokenizer.decode(ids[start:], skip_special_tokens=True).split("\n")[0].strip() for ids in made]
        entropy = sum(-c / samples * math.log(c / samples) for c in Counter(texts).values())
        rows.append((fact["known"], entropy, sum(t in fact["answers"] for t in texts) / samples))
    return rows


if __name__ == "__main__":
    import sys
    import time

    started = time.time()
    built = build_tiny_model(Path(sys.argv[1]))
    print(f"built in {time.time() - started:.1f} s")
    for number in (0, 1, 5):
        for kind in (True, False):
            picked = [row for row in entropies(built, number) if row[0] is kind]
            means = [sum(column) / len(picked) for column in zip(*picked, strict=True)]
            print(f"{number} shots, known={kind}: entropy {means[1]:.2f}, right {means[2]:.2f}, n={len(picked)}")
