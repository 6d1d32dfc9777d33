"""A language model as the judge: does one answer to a question entail another?

A model in this process is never made to write: the likeliest of three words to begin its answer with is its judgement.
A server writes one short answer at temperature 0, in which the first of the three words counts. The idea of asking a
general model with a definition of entailment is that of Farquhar et al. (Nature 2024); the wording is ours.
"""

import json
import re
from collections.abc import Iterator, Sequence

from ka2l.knowledge.uncertainty.semantic_clusters import Pair, Relation
from ka2l.models.interface import LanguageModel, Prompt, Sampler
from ka2l.models.judges.kept_judgements import Judged, gathered

PROMPT_VERSION = 1  # raised whenever a byte of the prompt or the reading of answers changes
RELATIONS: tuple[Relation, ...] = ("entailment", "neutral", "contradiction")
_CHUNK = 256  # prompts between two writes to the cache
_LONGEST = 16  # tokens of a server's answer: one word, and what chat models like to put around it
_WORD = re.compile("|".join(RELATIONS), re.IGNORECASE)

_INSTRUCTION = """\
Two answers to one question are compared. Does the first entail the second?
entailment: whoever gives the first answer has thereby given the second as well.
contradiction: the two cannot both be right.
neutral: neither of these, such as a first answer that leaves the second open.
Reply with one word: entailment, contradiction or neutral."""

_EXAMPLES: tuple[tuple[Pair, Relation], ...] = (
    (Pair("Who wrote Hamlet?", "William Shakespeare", "Shakespeare"), "entailment"),
    (Pair("In which year did Apollo 11 land on the Moon?", "1969", "1972"), "contradiction"),
    (Pair("Where is the Louvre?", "In France", "In Paris"), "neutral"),
    (Pair("What do bees make?", "Honey and wax", "Honey"), "entailment"),
    (Pair("What is the capital of Kenya?", "Mombasa", "Nairobi"), "contradiction"),
    (Pair("What is Marie Curie known for?", "I do not know", "Discovering radium"), "neutral"),
)


def judge_prompt(pair: Pair) -> str:
    """The prompt for one pair; a space and the relation follow."""
    examples = [f"{_asked(example)} {relation}" for example, relation in _EXAMPLES]
    return "\n\n".join([_INSTRUCTION, *examples, _asked(pair)])


def read_relation(text: str) -> Relation | None:
    """The first of the three words in an answer, in any case; None where there is none."""
    found = _WORD.search(text)
    return next((r for r in RELATIONS if found and found.group().lower() == r), None)


class LocalLlmJudge:
    """Implements `ka2l.knowledge.uncertainty.semantic_clusters.Judge` with a model in this process: deterministic, nothing to parse.

    Args:
        model: whom to ask. Its shared prefix becomes this prompt's.
        key: name and revision of the model, for the cache.
    """

    symmetric = False

    def __init__(self, model: LanguageModel, key: str):
        self._model = model
        self.key = f"llm-{PROMPT_VERSION} local {key}"

    def relations(self, pairs: Sequence[Pair]) -> list[Relation]:
        """See `Judge.relations`."""
        return gathered(self.batches(pairs), len(pairs))

    def batches(self, pairs: Sequence[Pair]) -> Iterator[Judged]:
        """See `BatchJudge.batches`.

        Raises:
            ModelError: a prompt is too long, or the words begin alike in the model's vocabulary.
        """
        self._model.share_prefix(lambda text: judge_prompt(Pair(text, text, text)))
        words = [f" {relation}" for relation in RELATIONS]
        for start in range(0, len(pairs), _CHUNK):
            chunk = pairs[start : start + _CHUNK]
            likely = self._model.choice_log_probabilities([_prompt(pair) for pair in chunk], words)
            places = range(start, start + len(chunk))
            yield Judged(places, [RELATIONS[best] for best in likely.argmax(axis=1)])


class ServerLlmJudge:
    """Implements `ka2l.knowledge.uncertainty.semantic_clusters.Judge` with whoever can answer: an OpenAI-compatible server.

    Args:
        sampler: whom to ask.
        key: name of the model and whatever else pins it, for the cache.

    Attributes:
        unparsed: answers so far in which none of the three words stood; they count as neutral.
    """

    symmetric = False

    def __init__(self, sampler: Sampler, key: str):
        self._sampler = sampler
        self.key = f"llm-{PROMPT_VERSION} server {key}"
        self.unparsed = 0

    def relations(self, pairs: Sequence[Pair]) -> list[Relation]:
        """See `Judge.relations`."""
        return gathered(self.batches(pairs), len(pairs))

    def batches(self, pairs: Sequence[Pair]) -> Iterator[Judged]:
        """The relations as the answers come; see `BatchJudge.batches`.

        Raises:
            ModelError: the server will not answer.
        """
        asked = {prompt.question_id: prompt for prompt in map(_prompt, pairs)}
        places: dict[str, list[int]] = {}
        for place, pair in enumerate(pairs):
            places.setdefault(_name(pair), []).append(place)
        for result in self._sampler.sample(list(asked.values()), {0: 0.0}, seed=0, max_new_tokens=_LONGEST):
            said = read_relation(result.answers[0].text)
            self.unparsed += said is None
            mine = places[result.question_id]
            yield Judged(mine, [said or "neutral"] * len(mine))


def _asked(pair: Pair) -> str:
    return (
        f"Question: {_line(pair.question)}\nFirst answer: {_line(pair.premise)}\n"
        f"Second answer: {_line(pair.hypothesis)}\nRelation:"
    )


def _line(text: str) -> str:
    """On one line, so that no answer can pretend to be the next field of the prompt."""
    return " ".join(text.split())


def _name(pair: Pair) -> str:
    """Stands for the pair in messages, and in the key of a paid answer."""
    return json.dumps(pair, ensure_ascii=False)


def _prompt(pair: Pair) -> Prompt:
    text = judge_prompt(pair)
    return Prompt(_name(pair), text, ({"role": "user", "content": text},))
