"""How much fits, and that running out of memory costs time, not answers."""

from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from ka2l.config import PromptConfig
from ka2l.errors import ModelError
from ka2l.models.base import Prompt
from ka2l.models.budget import Budget, costs_of, find_budget, is_out_of_memory
from ka2l.models.load import ResolvedModel
from ka2l.models.local import LocalModel
from ka2l.prompts import PromptBuilder
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
    return [
        Prompt(f["id"], builder.sensing(f["question"])) for f in (tiny_world.known + tiny_world.unknown)[:20]
    ]


def answers(model: LocalModel, prompts: list[Prompt]) -> dict[str, list[str]]:
    made = list(model.sample(prompts, TEMPERATURES, seed=1, max_new_tokens=8, position="tbg"))
    assert len({result.question_id for result in made}) == len(made) == len(prompts)
    assert all(result.states is not None for result in made)
    return {result.question_id: [a.text for a in result.answers] for result in made}


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), RuntimeError("can't allocate memory: 7 bytes")]
)
@pytest.mark.parametrize("fits", [40, 11])
def test_running_out_of_memory_loses_nothing(
    model: LocalModel, prompts: list[Prompt], fits: int, error: BaseException
) -> None:
    expected = answers(model, prompts)
    states = model.states(prompts, 2, position="tbg")
    entropy = model.next_token_entropy(prompts)
    model.budget = Budget(512, 384)
    small = Small(model.model, fits, error)
    assert answers(model, prompts) == expected
    assert small.refused >= 3
    assert model.budget.tokens < 512
    refused = small.refused
    model.budget = Budget(512, 384)
    torch.testing.assert_close(model.states(prompts, 2, position="tbg"), states, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.next_token_entropy(prompts), entropy, rtol=1e-4, atol=1e-4)
    assert small.refused > refused
    # What was found out is remembered: the next call does not run into it again.
    refused = small.refused
    model.states(prompts, 2, position="tbg")
    assert small.refused == refused


def test_memory_that_runs_out_between_steps_loses_nothing(
    model: LocalModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making room for more rows can fail too, after prompts have entered."""
    from ka2l.models.slots import Slots

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
    monkeypatch.setattr("ka2l.models.budget._free_bytes", lambda _device: 40 * costs.token)
    small = find_budget(model.model, "auto")
    assert small.tokens == 10
    assert small.rows < 384
    monkeypatch.setattr("ka2l.models.budget._free_bytes", lambda _device: 0)
    assert (find_budget(model.model, "auto").tokens, find_budget(model.model, "auto").rows) == (1, 1)
    asked = find_budget(model.model, 77)
    assert (asked.tokens, asked.rows) == (77, 77)


def test_weights_in_few_bits_need_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    from ka2l.config import ModelConfig
    from ka2l.models import load

    found: dict[str, Any] = {"bitsandbytes": None}
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda name: found[name])
    assert load._quantization(ModelConfig(), "cpu") is None
    with pytest.raises(ModelError, match=r"nf4, and bitsandbytes is not installed.*pip install bitsandbytes"):
        load._quantization(ModelConfig(quantization="nf4"), "cuda")
    found["bitsandbytes"] = object()
    assert load._quantization(ModelConfig(quantization="int8"), "cuda").load_in_8bit
    four = load._quantization(ModelConfig(quantization="nf4", dtype="bfloat16"), "cuda")
    assert (four.load_in_4bit, four.bnb_4bit_quant_type) == (True, "nf4")
    assert four.bnb_4bit_compute_dtype == torch.bfloat16


def test_several_gpus_share_a_model_only_where_the_device_is_left_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ka2l.config import ModelConfig
    from ka2l.models.load import _placement

    for count, expected in ((0, {"": "cpu"}), (1, {"": "cuda"}), (3, "auto")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert _placement(ModelConfig(), "cuda" if count else "cpu") == expected
    assert _placement(ModelConfig(device="cuda:1"), "cuda:1") == {"": "cuda:1"}
    assert _placement(ModelConfig(device="cpu"), "cpu") == {"": "cpu"}
