"""One token at a time: how it is drawn, from which numbers, and what ends an answer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from ka2l.models.local import token_draws
from ka2l.models.local.token_draws import LEVELS, StopRule, draw, uniforms
from letters import Letters


def numbers(count: int, seed: int = 5) -> NDArray[np.float64]:
    return np.random.default_rng(seed).random((count, LEVELS))


@pytest.mark.parametrize("temperature", [0.4, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("vocabulary", [6, 81, 300])
def test_drawn_tokens_follow_the_distribution(vocabulary: int, temperature: float) -> None:
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    logits[4] = -torch.inf
    n = 20_000
    tokens, logprobs = draw(logits.expand(2, -1).clone(), [1] * n, [temperature] * n, numbers(n))
    exact = torch.softmax(logits.double() / temperature, dim=-1).numpy()
    counts = np.bincount(tokens, minlength=vocabulary)
    assert counts[exact == 0].sum() == 0
    likely = exact * n >= 5
    assert abs(counts[~likely].sum() - exact[~likely].sum() * n) <= 20 + 5 * np.sqrt(n * exact[~likely].sum())
    expected = exact[likely] / exact[likely].sum() * counts[likely].sum()
    assert chisquare(counts[likely], expected).pvalue > 1e-3
    # Whatever the temperature, the reported probability is the model's own.
    own = torch.log_softmax(logits, dim=-1)[torch.tensor(tokens)]
    np.testing.assert_allclose(logprobs, own.numpy(), rtol=1e-5, atol=1e-6)


def test_every_draw_takes_from_its_row_and_at_its_temperature() -> None:
    logits = torch.randn(5, 11, generator=torch.Generator().manual_seed(0))
    rows = [4, 0, 0, 2, 4, 1, 3]
    temperatures = [0.0, 1.0, 0.5, 0.0, 1.0, 0.5, 2.0]
    given_numbers = numbers(7)
    together = draw(logits.clone(), rows, temperatures, given_numbers)
    for i in range(7):
        alone = draw(logits[rows[i]][None].clone(), [0], [temperatures[i]], given_numbers[i : i + 1])
        assert (together[0][i], together[1][i]) == (alone[0][0], pytest.approx(alone[1][0], rel=1e-5))
    assert [together[0][i] for i in (0, 3)] == [int(logits[4].argmax()), int(logits[2].argmax())]


def test_many_rows_are_worked_on_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(9, 40, generator=torch.Generator().manual_seed(0))
    rows, temperatures = [0, 3, 8, 8, 5], [1.0, 0.3, 1.0, 0.3, 0.3]
    whole = draw(logits.clone(), rows, temperatures, numbers(5))
    monkeypatch.setattr(token_draws, "_IN_CACHE", 80)
    in_parts = draw(logits.clone(), rows, temperatures, numbers(5))
    assert whole[0] == in_parts[0]
    assert whole[1] == pytest.approx(in_parts[1])


def test_the_ends_of_the_unit_interval() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]])
    ends = np.array([[0.0] * LEVELS, [1 - 2**-53] * LEVELS])
    assert draw(logits, [0, 0], [1.0, 1.0], ends)[0] == [1, 3]


@given(st.integers(0, 2**32 - 1), st.integers(2, 200), st.floats(1e-7, 1e-5))
@settings(max_examples=50, deadline=None)
def test_rounding_changes_almost_no_token(seed: int, vocabulary: int, noise: float) -> None:
    """What another batch size does to logits is of this size; one number for the whole vocabulary would flip more."""
    made = np.random.default_rng(seed)
    logits = made.normal(0, 3, (40, vocabulary)).astype(np.float32)
    moved = logits * (1 + noise * made.uniform(-1, 1, logits.shape)).astype(np.float32)
    rows = list(range(40)) * 5
    one = draw(torch.from_numpy(logits), rows, [1.0] * 200, numbers(200, seed))[0]
    other = draw(torch.from_numpy(moved), rows, [1.0] * 200, numbers(200, seed))[0]
    assert sum(a != b for a, b in zip(one, other, strict=True)) <= 1


def test_uniforms_depend_on_seed_question_and_sample_only() -> None:
    five = uniforms(3, "b", range(5), 8)
    assert (five.dtype, five.shape) == (np.float64, (5, 8, LEVELS))
    np.testing.assert_array_equal(uniforms(3, "b", range(10), 8)[:5], five)
    np.testing.assert_array_equal(uniforms(3, "b", [4, 2], 8), five[[4, 2]])
    np.testing.assert_array_equal(uniforms(3, "b", range(5), 20)[:, :8], five)
    everything = np.concatenate([uniforms(s, q, range(5), 8) for s in (3, 4) for q in ("a", "b", "ab")])
    assert len(np.unique(everything)) == everything.size
    many = np.concatenate([uniforms(0, str(i), range(2), 50) for i in range(100)])
    assert ((many >= 0) & (many < 1)).all()
    assert abs(many.mean() - 0.5) < 0.01


def test_an_answer_ends_at_the_first_line_break_after_some_text() -> None:
    rule = StopRule(Letters(), {7})
    assert not rule.ends([9])  # a break before any text
    assert not rule.ends([9, 0])
    assert rule.ends([9, 0, 9])
    assert rule.ends([0, 8])
    assert not rule.ends([0, 9, 1])  # asked only about the last token: what ended before would not have gone on
