"""A language model as the judge: does one answer to a question entail another?

A model in this process generates no text: its judgement is the word with the highest probability, of three possible
first words of its answer. A server generates one short answer at temperature 0, in which the first of the three words
counts. Judging entailment with a general model and a definition is from Farquhar et al. (Nature 2024); the wording is
KA2L's own.
"""

import json
import re
from collections.abc import Iterator, Sequence

from ka2l.knowledge.uncertainty.semantic_clusters import Pair, Relation
from ka2l.models.interface import LanguageModel, Prompt, Sampler
from ka2l.models.judges.kept_judgements import Judged, gathered

# Raised whenever a byte of the prompt, or the reading of answers, changes.
PROMPT_VERSION = 1
RELATIONS: tuple[Relation, ...] = ("entailment", "neutral", "contradiction")
# Prompts between two writes to the cache.
_CHUNK = 256
# Most tokens of a server's answer: one word, and the text that chat models often put around it.
_LONGEST = 16
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
    """The prompt for one pair; the answer is a space and the relation."""
    examples = [f"{_block(example)} {relation}" for example, relation in _EXAMPLES]
    return "\n\n".join([_INSTRUCTION, *examples, _block(pair)])


def read_relation(text: str) -> Relation | None:
    """The first of the three words in an answer, in upper or lower case; None if it contains none of them."""
    match = _WORD.search(text)
    return next((relation for relation in RELATIONS if match and match.group().lower() == relation), None)


class LocalLlmJudge:
    """Implements `ka2l.knowledge.uncertainty.semantic_clusters.Judge` with a model in this process; it is
    deterministic.

    Args:
        model: the model that judges. Its shared prefix is set to that of this prompt.
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
            ModelError: a prompt is too long, or the words begin with the same token in the model's vocabulary.
        """
        self._model.share_prefix(lambda text: judge_prompt(Pair(text, text, text)))
        words = [f" {relation}" for relation in RELATIONS]
        for start in range(0, len(pairs), _CHUNK):
            chunk = pairs[start : start + _CHUNK]
            likely = self._model.choice_log_probabilities([_prompt(pair) for pair in chunk], words)
            places = range(start, start + len(chunk))
            yield Judged(places, [RELATIONS[best] for best in likely.argmax(axis=1)])


class ServerLlmJudge:
    """Implements `ka2l.knowledge.uncertainty.semantic_clusters.Judge` with a sampler, such as an OpenAI-compatible
    server.

    Args:
        sampler: generates the judgements.
        key: name of the model and everything else that identifies it, for the cache.

    Attributes:
        unparsed: number of answers so far without one of the three words; they count as neutral.
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
        """The relations in the order in which the answers arrive; see `BatchJudge.batches`.

        Raises:
            ModelError: the server does not answer.
        """
        prompts = {prompt.question_id: prompt for prompt in map(_prompt, pairs)}
        places: dict[str, list[int]] = {}
        for place, pair in enumerate(pairs):
            places.setdefault(_name(pair), []).append(place)
        for result in self._sampler.sample(list(prompts.values()), {0: 0.0}, seed=0, max_new_tokens=_LONGEST):
            relation = read_relation(result.answers[0].text)
            self.unparsed += relation is None
            of_pair = places[result.question_id]
            yield Judged(of_pair, [relation or "neutral"] * len(of_pair))


def _block(pair: Pair) -> str:
    """A pair as one block of the prompt."""
    return (
        f"Question: {_on_one_line(pair.question)}\nFirst answer: {_on_one_line(pair.premise)}\n"
        f"Second answer: {_on_one_line(pair.hypothesis)}\nRelation:"
    )


def _on_one_line(text: str) -> str:
    """The text on one line, so that an answer cannot look like the next field of the prompt."""
    return " ".join(text.split())


def _name(pair: Pair) -> str:
    """The pair's name in messages and in the key of a paid answer."""
    return json.dumps(pair, ensure_ascii=False)


def _prompt(pair: Pair) -> Prompt:
    text = judge_prompt(pair)
    return Prompt(_name(pair), text, ({"role": "user", "content": text},))
