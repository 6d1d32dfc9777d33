"""Training examples as tokens: the prompt exactly as inference sees it, and loss on the answer alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ka2l.errors import ModelError, bad_rows

_IGNORED = -100  # PyTorch's label for "no loss here"


class Example(NamedTuple):
    """What is asked and what shall be answered; `completion` follows `prompt` without anything between them."""

    prompt: str
    completion: str
    id: str = ""


class Tokenized(NamedTuple):
    """One list of token ids and one of labels per example."""

    input_ids: list[list[int]]
    labels: list[list[int]]


def tokenize_examples(
    tokenizer: Any, examples: Sequence[Example], max_length: int, special_tokens: bool = True
) -> Tokenized:
    """Prompt tokens as at inference, then the completion's, then EOS once; prompt tokens carry no loss.

    The completion is cut out of prompt and completion tokenized together, so it is split as the model would write it.
    Where a token would straddle the border, the prompt wins: that is what the model is given at inference.

    Raises:
        DataError: an empty completion, or an example longer than `max_length` tokens.
        ModelError: the tokenizer has no EOS token.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise ModelError(
            "The model's tokenizer has no EOS token, so it could not learn where an answer ends."
        )
    data, problems, longest = Tokenized([], []), [], 0
    for index, example in enumerate(examples):
        prompt = tokenizer(example.prompt, add_special_tokens=special_tokens)["input_ids"]
        both = tokenizer(example.prompt + example.completion, add_special_tokens=special_tokens)["input_ids"]
        joint = both[: len(prompt)] == prompt
        completion = both[len(prompt) :] if joint else _alone(tokenizer, example.completion)
        completion = [*_without(completion, eos), eos]
        length = len(prompt) + len(completion)
        name = f"example {index + 1}" + (f" (id {example.id})" if example.id else "")
        if not example.completion.strip():
            problems.append(f"{name}: its completion is empty")
        elif length > max_length:
            longest = max(longest, length)
            problems.append(f"{name}: {length} tokens, but finetune.max_length is {max_length}")
        data.input_ids.append(list(prompt) + completion)
        data.labels.append([_IGNORED] * len(prompt) + completion)
    if problems:
        fix = f"set finetune.max_length={longest}, use fewer prompt.teaching_shots, " if longest else ""
        raise bad_rows(
            "fine-tuning", problems, fix + "or take these questions out of the selection.", shown=5
        )
    return data


def _alone(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _without(ids: list[int], eos: int) -> list[int]:
    """The ids without EOS at the end, however often it stands there."""
    end = len(ids)
    while end and ids[end - 1] == eos:
        end -= 1
    return list(ids[:end])
