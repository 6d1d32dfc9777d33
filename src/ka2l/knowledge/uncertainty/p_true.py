"""P(True): the model gets some of its own answers and is asked whether one of them is true (arXiv 2207.05221).

    shots = [PTrueShot("What is the capital of France?", ["Paris", "Lyon"], "Paris", True), …]
    prompt = p_true_prompt(shots, question, sampled_answers, low_temperature_answer)
    p_false(model.choice_log_probabilities([prompt], CHOICES))        # higher = more uncertain

Kadavath et al., Section 3.2, few-shot with brainstormed samples. The shots must come from rows that are not scored.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CHOICES = (" True", " False")
"""Continuations of the prompt, in the order of the columns of `p_false`."""

MOST_IDEAS = 10  # more samples make the prompt longer, not better

_INSTRUCTION = (
    "For each question there are some ideas, which may be right or wrong, and one proposed answer. "
    "Say whether the proposed answer is true or false."
)
_NOTHING = "(no answer)"


class PTrueShot(NamedTuple):
    """A worked example: a question with gold answers that is not scored itself."""

    question: str
    ideas: Sequence[str]  # its sampled answers
    answer: str  # the proposed answer
    correct: bool  # whether it is right


def p_true_prompt(shots: Sequence[PTrueShot], question: str, ideas: Sequence[str], answer: str) -> str:
    """The prompt whose next word is " True" or " False".

    Instruction and shots come first and are identical for all questions, so that they are computed once.

    Args:
        shots: worked examples, in order; may be empty.
        question: the question.
        ideas: the sampled answers, formatted by `distinct_ideas`; may be empty.
        answer: the proposed answer, often the low-temperature one.
    """
    worked = [_block(shot.question, shot.ideas, shot.answer) + CHOICES[not shot.correct] for shot in shots]
    return "\n\n".join([_INSTRUCTION, *worked, _block(question, ideas, answer)])


def distinct_ideas(answers: Sequence[str], most: int = MOST_IDEAS) -> list[str]:
    """The first `most` different answers, in order, each on one line."""
    return list(dict.fromkeys(map(_one_line, answers)))[:most]


def choose_shots(correct: Sequence[bool] | NDArray[np.bool_], rows: Sequence[int], k: int, seed: int) -> list[int]:
    """Pick worked examples: half of them right, half wrong, as far as there are enough of each.

    Shots of one kind would bias the model to one answer.

    Args:
        correct: whether the answer in each of `rows` is right, in the order of `rows`.
        rows: row numbers to choose from: training rows, which then get no score.
        k: number of shots; of an odd number one more is right. If there are fewer rows, all are taken.
        seed: seed of the choice and of the order.

    Returns:
        k of `rows`, in random order; the order of `rows` has no effect.

    Raises:
        ValueError: lengths differ, or a row is given twice.
    """
    if len(correct) != len(rows):
        raise ValueError(f"{len(correct)} judgements, but {len(rows)} rows")
    if len(set(rows)) < len(rows):
        raise ValueError("a row is given twice")
    judged = sorted(zip(rows, correct, strict=True))
    right = [row for row, is_right in judged if is_right]
    wrong = [row for row, is_right in judged if not is_right]
    k = min(k, len(rows))
    from_right = min(len(right), max(k - len(wrong), (k + 1) // 2))
    rng = np.random.default_rng(seed)
    chosen = [right[i] for i in rng.permutation(len(right))[:from_right]]
    chosen += [wrong[i] for i in rng.permutation(len(wrong))[: k - from_right]]
    return [chosen[i] for i in rng.permutation(k)]


def p_false(log_probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """1 − P(True), with P(True) and P(False) scaled to sum to 1: other continuations do not count.

    Args:
        log_probabilities: natural logs of the probabilities of `CHOICES`, [rows, 2]; may be very small.

    Returns:
        [rows], 0 to 1; NaN where both have probability 0.

    Raises:
        ValueError: not [rows, 2].
    """
    logs = np.asarray(log_probabilities, dtype=np.float64)
    if logs.ndim != 2 or logs.shape[1] != len(CHOICES):
        raise ValueError(f"log-probabilities must be [rows, {len(CHOICES)}], not {list(logs.shape)}")
    # −inf − −inf gives NaN without a warning.
    with np.errstate(invalid="ignore"):
        doubt: NDArray[np.float64] = np.exp(logs[:, 1] - np.logaddexp(logs[:, 0], logs[:, 1]))
    return doubt


def _block(question: str, ideas: Sequence[str], answer: str) -> str:
    lines = [f"Question: {_one_line(question)}"]
    if ideas:
        lines += ["Ideas:", *(f"- {idea}" for idea in distinct_ideas(ideas))]
    lines += [f"Proposed answer: {_one_line(answer)}", "The proposed answer is:"]
    return "\n".join(lines)


def _one_line(text: str) -> str:
    # A line break inside an answer could forge a line of the prompt.
    return " ".join(text.split()) or _NOTHING
