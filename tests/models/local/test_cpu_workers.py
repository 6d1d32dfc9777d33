"""Passes side by side: the same answers and states as one after the other, and errors that end all of them."""

import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from ka2l.models.interface import Prompt, Usage
from ka2l.models.loading import ResolvedModel
from ka2l.models.local import local_model
from ka2l.models.local.cpu_workers import together, workers_for
from ka2l.models.local.local_model import LocalModel
from ka2l.models.local.memory_budget import Budget
from ka2l.models.prompts import PromptBuilder
from ka2l.models.settings import PromptConfig
from tiny import TinyWorld

Jobs = Generator[int | None, None, None]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def counting(n: int, seen: list[Any]) -> Jobs:
    try:
        for i in range(n):
            seen.append((threading.current_thread(), torch.get_num_threads(), torch.is_inference_mode_enabled()))
            yield i
    finally:
        seen.append("closed")


@pytest.mark.usefixtures("threads")
def test_jobs_run_side_by_side_with_their_share_of_the_threads() -> None:
    seen: list[list[Any]] = [[], [], []]
    made = sorted(together([counting(n, log) for n, log in zip((3, 0, 5), seen, strict=True)]))
    assert made == [0, 0, 1, 1, 2, 2, 3, 4]
    assert [log[-1] for log in seen] == ["closed"] * 3
    assert len({entry[0] for log in seen for entry in log[:-1]}) == 2
    assert {entry[1:] for log in seen for entry in log[:-1]} == {(1, True)}
    assert torch.get_num_threads() == 4


def test_one_job_runs_in_the_callers_thread() -> None:
    seen: list[Any] = []
    assert list(together([counting(2, seen)])) == [0, 1]
    assert seen[0][0] is threading.current_thread()


@pytest.mark.usefixtures("threads")
def test_an_error_ends_all_and_is_raised() -> None:
    seen: list[Any] = []

    def failing() -> Jobs:
        yield 1
        raise ValueError("broken")

    def endless() -> Jobs:
        yield from counting(10**9, seen)

    with pytest.raises(ValueError, match="broken"):
        list(together([failing(), endless()]))
    assert torch.get_num_threads() == 4
    count = len(seen)
    time.sleep(0.05)
    assert len(seen) == count, "the other job still runs"


@pytest.mark.usefixtures("threads")
def test_results_nobody_waits_for_end_the_jobs() -> None:
    seen: list[Any] = []
    made: Any = together([counting(10**9, seen), counting(10**9, [])])
    next(made)
    made.close()
    count = len(seen)
    time.sleep(0.05)
    assert len(seen) == count
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("threads")
def test_a_few_items_are_not_shared_out_and_a_gpu_never() -> None:
    cpu = torch.device("cpu")
    assert [workers_for(cpu, n) for n in (0, 1, 7, 8, 15, 16, 999)] == [1, 1, 1, 2, 3, 4, 4]
    assert workers_for(torch.device("cuda"), 999) == 1


@pytest.mark.usefixtures("threads")
def test_answers_and_states_do_not_depend_on_the_workers(
    tiny_world: TinyWorld,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_world.folder)
    builder = PromptBuilder(PromptConfig(shots=2))
    model = LocalModel(
        LlamaForCausalLM.from_pretrained(tiny_world.folder).eval(), tokenizer, ResolvedModel("t", "t", "0")
    )
    model.share_prefix(builder.sensing)
    facts = tiny_world.known[:20] + tiny_world.unknown[:20]
    prompts = [Prompt(fact["id"], builder.sensing(fact["question"])) for fact in facts]
    temperatures = {0: 0.0} | dict.fromkeys(range(1, 5), 1.0)
    found = []
    for workers in (1, 3):
        monkeypatch.setattr(local_model, "workers_for", lambda _device, _items, workers=workers: workers)
        model.usage = Usage()
        model.budget = Budget(128, 48)
        made = list(model.sample(prompts, temperatures, seed=2, max_new_tokens=8, position="tbg"))
        by_id = {result.question_id: result for result in made}
        assert len(by_id) == len(made) == len(prompts)
        texts = [[a.text for a in by_id[prompt.question_id].answers] for prompt in prompts]
        states = np.stack([np.asarray(by_id[prompt.question_id].states) for prompt in prompts])
        found.append((texts, states, model.usage, model.states(prompts, 1, position="tbg")))
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=0, atol=1e-4 * np.abs(found[0][1]).max())
    assert found[0][2] == found[1][2]
    np.testing.assert_allclose(found[0][3], found[1][3], rtol=0, atol=1e-4 * np.abs(found[0][3]).max())
    np.testing.assert_allclose(found[0][3], found[0][1][:, 1], rtol=0, atol=1e-4 * np.abs(found[0][3]).max())


def test_memory_that_runs_out_in_one_worker_shrinks_all() -> None:
    whole = Budget(64, 20)
    shares = [whole.share(3), whole.share(3)]
    assert [(share.tokens, share.rows) for share in shares] == [(21, 6)] * 2
    shares[0].halve(MemoryError())
    assert (whole.tokens, whole.rows) == (32, 10)
    assert (shares[1].tokens, shares[1].rows) == (10, 3)
    assert whole.share(1) is whole


@pytest.mark.usefixtures("threads")
def test_a_job_with_nothing_to_say_can_be_ended_and_its_silence_is_not_passed_on() -> None:
    seen: list[Any] = []

    def silent() -> Jobs:
        for _ in counting(10**9, seen):
            yield None

    def short() -> Jobs:
        yield None
        yield 7
        raise ValueError("over")

    made = together([silent(), short()])
    assert next(made) == 7
    with pytest.raises(ValueError, match="over"):
        next(made)
    assert seen[-1] == "closed"
    assert list(together([iter_of(None, 3, None)])) == [3]


def iter_of(*values: int | None) -> Jobs:
    yield from values


def test_two_workers_may_reach_for_the_last_spare_slots(tiny_world: TinyWorld) -> None:
    class Raced(list[Any]):
        """Seems to hold slots until they are taken: another worker was faster."""

        def __bool__(self) -> bool:
            return True

    tokenizer = AutoTokenizer.from_pretrained(tiny_world.folder)
    builder = PromptBuilder(PromptConfig(shots=2))
    tiny = LlamaForCausalLM.from_pretrained(tiny_world.folder).eval()
    model = LocalModel(tiny, tokenizer, ResolvedModel("t", "t", "0"))
    model.share_prefix(builder.sensing)
    model._shared[True].spare = Raced()
    made = list(model.sample([Prompt("q", builder.sensing("Who?"))], {0: 0.0}, seed=0, max_new_tokens=2))
    assert [result.question_id for result in made] == ["q"]
