"""How much fits, and that running out of memory costs time, not answers."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from ka2l.errors import ModelError
from ka2l.models.interface import Prompt
from ka2l.models.loading import ResolvedModel
from ka2l.models.local.local_model import LocalModel
from ka2l.models.local.memory_budget import Budget, costs_of, find_budget, is_out_of_memory
from ka2l.models.prompts import PromptBuilder
from ka2l.models.settings import PromptConfig
from tiny import TinyWorld

TEMPERATURES = {0: 0.0} | dict.fromkeys(range(1, 6), 1.0)


class Small:
    """A device where a pass of more than `fits` tokens runs out of memory."""

    def __init__(self, model: Any, fits: int, error: BaseException):
        self.refused = 0
        self.fits, self.error = fits, error
        model.model.register_forward_pre_hook(self.check, with_kwargs=True)

    def check(self, _module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].numel() > self.fits:
            self.refused += 1
            raise self.error


@pytest.fixture
def model(tiny_world: TinyWorld) -> LocalModel:
    tokenizer = AutoTokenizer.from_pretrained(tiny_world.folder)
    tiny = LlamaForCausalLM.from_pretrained(tiny_world.folder).eval()
    local = LocalModel(tiny, tokenizer, ResolvedModel("tiny", "tiny", "0"))
    local.share_prefix(PromptBuilder(PromptConfig(shots=2)).sensing)
    return local


@pytest.fixture
def prompts(tiny_world: TinyWorld) -> list[Prompt]:
    builder = PromptBuilder(PromptConfig(shots=2))
    return [Prompt(f["id"], builder.sensing(f["question"])) for f in (tiny_world.known + tiny_world.unknown)[:20]]


def answers(model: LocalModel, prompts: list[Prompt]) -> dict[str, list[str]]:
    made = list(model.sample(prompts, TEMPERATURES, seed=1, max_new_tokens=8, position="tbg"))
    assert len({result.question_id for result in made}) == len(made) == len(prompts)
    assert all(result.states is not None for result in made)
    return {result.question_id: [a.text for a in result.answers] for result in made}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("can't allocate memory: 7 bytes")])
@pytest.mark.parametrize("fits", [40, 11])
def test_running_out_of_memory_loses_nothing(
    model: LocalModel, prompts: list[Prompt], fits: int, error: BaseException
) -> None:
    expected = answers(model, prompts)
    states = model.states(prompts, 2, position="tbg")
    undecided = np.stack(model.next_token_signals(prompts))
    model.budget = Budget(512, 384)
    small = Small(model.model, fits, error)
    assert answers(model, prompts) == expected
    assert small.refused >= 3
    assert model.budget.tokens < 512
    refused = small.refused
    model.budget = Budget(512, 384)
    torch.testing.assert_close(model.states(prompts, 2, position="tbg"), states, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(np.stack(model.next_token_signals(prompts)), undecided, rtol=1e-4, atol=1e-4)
    assert small.refused > refused
    # What was found out is remembered: the next call does not run into it again.
    refused = small.refused
    model.states(prompts, 2, position="tbg")
    assert small.refused == refused


def test_memory_that_runs_out_between_steps_loses_nothing(
    model: LocalModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making room for more rows can fail too, after prompts have entered."""
    from ka2l.models.local.cache_slots import Slots

    expected = answers(model, prompts)
    model._shared[True].spare.clear()
    model.budget = Budget(512, 384)
    reserve = Slots.reserve
    failures: list[int] = []

    def refuse(self: Slots, slots: int, columns: int) -> None:
        if slots > 24 and len(failures) < 4:
            failures.append(slots)
            raise torch.OutOfMemoryError("full")
        reserve(self, slots, columns)

    monkeypatch.setattr(Slots, "reserve", refuse)
    assert answers(model, prompts) == expected
    assert failures


@pytest.mark.parametrize(("name", "nth"), [("move", n) for n in (1, 4, 9)] + [("keep", 1)])
def test_memory_that_runs_out_while_slots_are_rearranged_loses_nothing(
    model: LocalModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch, name: str, nth: int
) -> None:
    """Half of the layers are rearranged by then: what lies there must not be used again."""
    from ka2l.models.local import cache_slots

    expected = answers(model, prompts)
    model.budget = Budget(64, 24)
    calls: list[str] = []

    class Failing(dict[Any, Any]):
        """Buffers that can be gone through only in part."""

        def items(self) -> Any:
            yield from list(super().items())[:2]
            raise torch.OutOfMemoryError("full")

        def values(self) -> Any:
            yield from list(super().values())[:2]
            raise torch.OutOfMemoryError("full")

    original = getattr(cache_slots.Slots, name)

    def fail(self: Any, *arguments: Any) -> None:
        calls.append(name)
        if len(calls) == nth and (name == "keep" or arguments[0]):
            self._buffers = Failing(self._buffers)
        original(self, *arguments)

    monkeypatch.setattr(cache_slots.Slots, name, fail)
    if name == "keep":
        Small(model.model, 30, torch.OutOfMemoryError("full"))
    assert answers(model, prompts) == expected
    assert len(calls) >= nth


def test_one_long_question_does_not_make_room_for_all_as_long(model: LocalModel, prompts: list[Prompt]) -> None:
    expected = answers(model, prompts)
    long = Prompt("long", prompts[0].text[:-7] + " and so on" * 60 + "\nAnswer:")
    sizes: list[tuple[int, int]] = []
    slots = type(model._shared[True].spare[0])
    reserve = slots.reserve

    def watch(self: Any, count: int, columns: int) -> None:
        sizes.append((count, columns))
        reserve(self, count, columns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "reserve", watch)
        made = {r.question_id: r for r in model.sample([long, *prompts], TEMPERATURES, seed=1, max_new_tokens=8)}
    assert {name: [a.text for a in r.answers] for name, r in made.items() if name != "long"} == expected
    widest = max(columns for _, columns in sizes)
    assert widest > 10 * min(columns for _, columns in sizes)
    assert max(count for count, columns in sizes if columns == widest) <= len(TEMPERATURES)
    # The wide slots are not kept for the next call.
    assert answers(model, prompts) == expected
    assert model._shared[True].spare[-1].columns < widest


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_overflows_in_the_middle_of_an_answer_is_an_error(
    model: LocalModel, prompts: list[Prompt], value: float, shared: bool
) -> None:
    if not shared:
        model._exact_up_to = 0
    passes = []

    def overflow(_module: Any, _args: Any, _kwargs: Any, output: Any) -> None:
        passes.append(1)
        if len(passes) == 3:
            output.logits[-1, -1, 5] = value

    model.model.register_forward_hook(overflow, with_kwargs=True)
    with pytest.raises(ModelError, match=r"question \w+: the model's output holds NaN or infinite"):
        answers(model, prompts[:5])


def test_a_prompt_that_never_fits_is_an_error(model: LocalModel, prompts: list[Prompt]) -> None:
    Small(model.model, 0, torch.OutOfMemoryError("full"))
    with pytest.raises(ModelError, match="Memory runs out with a single prompt"):
        answers(model, prompts)
    with pytest.raises(ModelError, match="Memory runs out with a single prompt"):
        model.states(prompts, 1, position="tbg")


def test_other_errors_are_not_taken_for_a_full_memory(model: LocalModel, prompts: list[Prompt]) -> None:
    Small(model.model, 40, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        answers(model, prompts)
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_the_budget_follows_the_free_memory(model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = costs_of(model.model)
    config = model.model.config
    head = config.hidden_size // config.num_attention_heads
    assert costs.column == 4 * 2 * config.num_hidden_layers * config.num_key_value_heads * head
    monkeypatch.setattr("ka2l.models.local.memory_budget._free_bytes", lambda _device: 40 * costs.token)
    small = find_budget(model.model, "auto")
    assert small.tokens == 10
    # Half of it for rows: the longer their texts, the fewer.
    memory = 20 * costs.token
    assert small.rows_of(10) == max(1, memory // (10 * costs.column + costs.row))
    assert small.rows_of(10**6) == 1
    monkeypatch.setattr("ka2l.models.local.memory_budget._free_bytes", lambda _device: 0)
    none = find_budget(model.model, "auto")
    assert (none.tokens, none.rows_of(1)) == (1, 1)
    monkeypatch.setattr("ka2l.models.local.memory_budget._free_bytes", lambda _device: 1 << 40)
    much = find_budget(model.model, "auto")
    assert (much.tokens, much.rows_of(100)) == (512, 384)
    asked = find_budget(model.model, 77)
    assert (asked.tokens, asked.rows) == (77, 77)


def test_weights_in_few_bits_need_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    from ka2l.models import loading
    from ka2l.models.settings import ModelConfig

    found: dict[str, Any] = {"bitsandbytes": None}
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: found[name])
    assert loading._quantization(ModelConfig(), "cpu") is None
    with pytest.raises(ModelError, match=r"nf4, and bitsandbytes is not installed.*pip install bitsandbytes"):
        loading._quantization(ModelConfig(quantization="nf4"), "cuda")
    found["bitsandbytes"] = object()
    assert loading._quantization(ModelConfig(quantization="int8"), "cuda").load_in_8bit
    four = loading._quantization(ModelConfig(quantization="nf4", dtype="bfloat16"), "cuda")
    assert (four.load_in_4bit, four.bnb_4bit_quant_type) == (True, "nf4")
    assert four.bnb_4bit_compute_dtype == torch.bfloat16


def test_several_gpus_share_a_model_only_where_the_device_is_left_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ka2l.models.loading import _placement
    from ka2l.models.settings import ModelConfig

    for count, expected in ((0, {"": "cpu"}), (1, {"": "cuda"}), (3, "auto")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert _placement(ModelConfig(), "cuda" if count else "cpu") == expected
    assert _placement(ModelConfig(device="cuda:1"), "cuda:1") == {"": "cuda:1"}
    assert _placement(ModelConfig(device="cpu"), "cpu") == {"": "cpu"}
