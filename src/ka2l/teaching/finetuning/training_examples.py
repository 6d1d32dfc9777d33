"""Training examples as tokens: the prompt exactly as at inference, and loss on the answer alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ka2l.errors import ModelError, bad_rows

# PyTorch's label for "no loss here".
_IGNORED = -100


class Example(NamedTuple):
    """A prompt and the answer that is taught; `completion` follows `prompt` with nothing between them."""

    prompt: str
    completion: str
    id: str = ""


class Tokenized(NamedTuple):
    """One list of token ids and one of labels (-100: no loss) per example."""

    input_ids: list[list[int]]
    labels: list[list[int]]


def tokenize_examples(
    tokenizer: Any, examples: Sequence[Example], max_length: int, special_tokens: bool = True
) -> Tokenized:
    """Tokenize to prompt tokens as at inference, then the completion's, then EOS once; no loss on prompt tokens.

    The completion's tokens are taken from prompt and completion tokenized together, so they are those that the model
    would generate. If one token would span the boundary, prompt and completion are tokenized separately: the prompt's
    tokens are always those of inference.

    Raises:
        DataError: an empty completion, or an example longer than `max_length` tokens.
        ModelError: the tokenizer has no EOS token.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise ModelError("The model's tokenizer has no EOS token, so the model cannot learn where an answer ends.")
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
        raise bad_rows("fine-tuning", problems, fix + "or take these questions out of the selection.", shown=5)
    return data


def _alone(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _without(ids: list[int], eos: int) -> list[int]:
    """The ids without any EOS at the end."""
    end = len(ids)
    while end and ids[end - 1] == eos:
        end -= 1
    return list(ids[:end])
