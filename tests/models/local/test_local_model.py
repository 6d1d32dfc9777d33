"""The model in this process against plain transformers: the same tokens, states and probabilities, and its errors.

The reference is one unpadded prompt at a time: `generate` without sampling, and one forward pass.
"""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from ka2l.errors import ModelError
from ka2l.models.interface import Prompt
from ka2l.models.loading import ResolvedModel, resolve
from ka2l.models.local.local_model import LocalModel
from ka2l.models.prompts import PromptBuilder
from ka2l.models.settings import ModelConfig, PromptConfig
from local_models import MODELS, sample, wrap
from local_models import models as models  # a fixture
from local_models import prompts as prompts  # a fixture
from reference import Reference, assert_close
from reference import builder as builder
from reference import tokenizer as tokenizer
from tiny import TinyWorld


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_greedy_answers_states_and_logprobs_equal_plain_transformers(
    name: str,
    shared: bool,
    models: dict[str, Any],
    tokenizer: Any,
    builder: PromptBuilder,
    prompts: list[Prompt],
) -> None:
    model = wrap(models[name], tokenizer, builder.sensing if shared else None)
    made = sample(model, prompts, position="tbg")
    for prompt in prompts:
        reference, result = Reference(models[name], tokenizer, prompt.text), made[prompt.question_id]
        text, tokens, reason = reference.greedy()
        (answer,) = result.answers
        assert (answer.text, answer.finish_reason) == (text, reason)
        assert answer.token_logprobs == pytest.approx(reference.logprobs(tokens), abs=2e-4)
        assert result.states is not None
        assert_close(result.states, reference.states())


@pytest.mark.parametrize("name", MODELS)
def test_states_of_one_layer_equal_those_from_sampling(
    name: str, models: dict[str, Any], tokenizer: Any, builder: PromptBuilder, prompts: list[Prompt]
) -> None:
    model = wrap(models[name], tokenizer, builder.sensing)
    made = sample(model, prompts, position="tbg", max_new_tokens=1)
    sampled = np.stack([np.asarray(made[prompt.question_id].states) for prompt in prompts])
    assert sampled.shape[1] == model.n_layers + 1
    for layer in range(model.n_layers + 1):
        one = model.states(prompts, layer, position="tbg")
        # Rows are in the order of the prompts; other rows may stand beside each, so the last digits may differ.
        np.testing.assert_allclose(one, sampled[:, layer], rtol=0, atol=1e-4 * np.abs(one).max())
    every = model.states(prompts, None, position="tbg")
    np.testing.assert_allclose(every, sampled, rtol=0, atol=1e-4 * np.abs(sampled).max())


@pytest.mark.parametrize("name", MODELS)
def test_how_undecided_the_model_is_about_the_next_token(
    name: str, models: dict[str, Any], tokenizer: Any, builder: PromptBuilder, prompts: list[Prompt]
) -> None:
    found = wrap(models[name], tokenizer, builder.sensing).next_token_signals(prompts)
    references = [Reference(models[name], tokenizer, prompt.text) for prompt in prompts]
    np.testing.assert_allclose(found.entropy, [one.entropy() for one in references], rtol=1e-3, atol=1e-4)
    ranked = [sorted(one.probabilities().tolist(), reverse=True) for one in references]
    np.testing.assert_allclose(found.top_probability, [row[0] for row in ranked], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.margin, [row[0] - row[1] for row in ranked], rtol=1e-3, atol=1e-4)
    assert (found.entropy >= 0).all()
    assert [part.dtype for part in found] == [np.float32] * 3


@pytest.mark.parametrize("name", ["trained", "mistral"])
def test_mean_prompt_is_the_mean_over_the_tokens_behind_the_prefix(
    name: str, models: dict[str, Any], tokenizer: Any, builder: PromptBuilder, prompts: list[Prompt]
) -> None:
    # The sliding-window model shares nothing, and must still average the same tokens.
    model = wrap(models[name], tokenizer, builder.sensing)
    own = len(model._known)
    made = sample(model, prompts, position="mean_prompt", max_new_tokens=1)
    for prompt in prompts:
        states = made[prompt.question_id].states
        assert states is not None
        assert_close(states, Reference(models[name], tokenizer, prompt.text).states("mean_prompt", own))
    top = model.states(prompts, model.n_layers, position="mean_prompt")
    assert_close(top, np.stack([np.asarray(made[prompt.question_id].states)[-1] for prompt in prompts]))


def test_mean_prompt_without_a_known_prefix_is_the_mean_over_all_tokens(
    models: dict[str, Any], tokenizer: Any, prompts: list[Prompt]
) -> None:
    made = wrap(models["llama"], tokenizer).states(prompts, 2, position="mean_prompt")
    expected = [Reference(models["llama"], tokenizer, p.text).states("mean_prompt")[2] for p in prompts]
    assert_close(made, np.stack(expected))


def test_what_is_shared_is_not_computed_again(
    models: dict[str, Any], tokenizer: Any, builder: PromptBuilder, prompts: list[Prompt]
) -> None:
    lengths = sum(len(tokenizer(prompt.text)["input_ids"]) for prompt in prompts)
    for name in ("llama", "mistral"):
        model = wrap(models[name], tokenizer, builder.sensing)
        sample(model, prompts, max_new_tokens=1)
        if name == "llama":
            prefix = len(model._known)
            assert model.usage.prompt_saved == prefix * len(prompts) > 0.5 * lengths
            assert model.usage.prompt == lengths - prefix * len(prompts) + prefix
        else:  # the window is shorter than the prompts, so that earlier tokens are forgotten
            assert (model.usage.prompt, model.usage.prompt_saved) == (lengths, 0)


def test_prompts_that_do_not_begin_with_the_prefix_are_computed_in_full(
    models: dict[str, Any], tokenizer: Any, builder: PromptBuilder, prompts: list[Prompt]
) -> None:
    odd = [*prompts[:3], Prompt("odd", "Something else entirely:")]
    made = sample(wrap(models["trained"], tokenizer, builder.sensing), odd, position="tbg")
    for prompt in odd:
        reference = Reference(models["trained"], tokenizer, prompt.text)
        assert made[prompt.question_id].answers[0].text == reference.greedy()[0]
        assert_close(np.asarray(made[prompt.question_id].states), reference.states())


@pytest.fixture
def broken(tiny_world: TinyWorld) -> Any:
    """The trained model with NaN weights in its second block."""
    model = LlamaForCausalLM.from_pretrained(tiny_world.folder).eval()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    return model


def test_nan_weights_are_reported_with_layer_and_question(broken: Any, tokenizer: Any, prompts: list[Prompt]) -> None:
    model = wrap(broken, tokenizer)
    # Block 2 makes layer 2; layers 0 and 1 are sound.
    with pytest.raises(ModelError, match=rf"question {prompts[0].question_id}: .*layer 2 .*NaN"):
        sample(model, prompts[:1], position="tbg")
    with pytest.raises(ModelError, match=rf"question {prompts[1].question_id}: .*layer 3 .*NaN"):
        model.states(prompts[1:2], 3, position="tbg")
    assert np.isfinite(model.states(prompts, 1, position="tbg")).all()
    with pytest.raises(ModelError, match=rf"question {prompts[0].question_id}: .*output holds NaN"):
        sample(model, prompts[:1])
    with pytest.raises(ModelError, match=rf"question {prompts[2].question_id}: .*output holds NaN"):
        model.next_token_signals(prompts[2:3])


@pytest.mark.parametrize("name", ["trained", "gpt2"])
def test_prompts_beyond_the_models_limit(name: str, models: dict[str, Any], tokenizer: Any) -> None:
    model = wrap(models[name], tokenizer)
    limit = models[name].config.max_position_embeddings
    ids = [5 + i % 200 for i in range(limit + 1)]
    text = tokenizer.decode(ids)
    n = len(tokenizer(text)["input_ids"])
    assert n > limit - 20
    with pytest.raises(ModelError, match=rf"question far: its prompt has {2 * n} tokens, but the model reads {limit}"):
        model.states([Prompt("far", text + text)], 0, position="tbg")
    # What fits without its answer is refused too, instead of ending in an index error or in nonsense.
    fitting = tokenizer.decode(tokenizer(text)["input_ids"][: limit - 3])
    prompts = [Prompt("near", fitting)]
    tokens = len(tokenizer(fitting)["input_ids"])
    assert model.states(prompts, 0, position="tbg").shape[0] == 1
    with pytest.raises(ModelError, match=rf"question near: .* {tokens} tokens and its answer up to 50"):
        sample(model, prompts, max_new_tokens=50)
    assert sample(model, prompts, max_new_tokens=limit - tokens)["near"].answers


def test_no_prompts(models: dict[str, Any], tokenizer: Any) -> None:
    model = wrap(models["llama"], tokenizer)
    assert sample(model, []) == {}
    assert model.states([], 1, position="tbg").shape == (0, 32)
    assert [part.shape for part in model.next_token_signals([])] == [(0,)] * 3


def test_an_empty_prompt_is_named(models: dict[str, Any], tokenizer: Any) -> None:
    with pytest.raises(ModelError, match="question q7: its prompt has no tokens"):
        sample(wrap(models["llama"], tokenizer), [Prompt("q7", "")])


def _with_bos(tiny_world: TinyWorld) -> Any:
    """The tiny tokenizer, made to put its BOS token before every text, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = AutoTokenizer.from_pretrained(tiny_world.folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = "<|begin|>" + tokenizer.chat_template
    return tokenizer


def test_one_bos_in_plain_and_in_chat_prompts(tiny_world: TinyWorld, models: dict[str, Any]) -> None:
    tokenizer = _with_bos(tiny_world)
    bos = tokenizer.bos_token_id
    plain = LocalModel(models["llama"], tokenizer, ResolvedModel("t", "t", "0"))
    chat = LocalModel(models["llama"], tokenizer, ResolvedModel("t", "t", "0"), special_tokens=False)
    rendered = chat.render_chat([{"role": "user", "content": "Who?"}])
    assert rendered.startswith("<|begin|>")
    for model, text in ((plain, "Question: Who?\nAnswer:"), (chat, rendered)):
        (ids,) = model._encode([Prompt("q", text)])
        assert ids[0] == bos
        assert ids.count(bos) == 1


def test_load_turns_special_tokens_off_for_chat_only(tiny_world: TinyWorld) -> None:
    config = ModelConfig(name=str(tiny_world.folder), device="cpu")
    chat = LocalModel.load(config, resolve(config), template="chat")
    plain = LocalModel.load(config, resolve(config))
    assert (plain.special_tokens, chat.special_tokens) == (True, False)
    assert chat.has_chat_template
    assert chat.model.dtype == torch.float32
    text = PromptBuilder(PromptConfig(template="chat", shots=1), (), chat.render_chat).sensing("Who?")
    assert text.endswith("Who?<|end|>\n<|assistant|>\n")
    chat.share_prefix(PromptBuilder(PromptConfig(template="chat", shots=1), (), chat.render_chat).sensing)
    result = sample(chat, [Prompt("q", text)])["q"]
    assert result.answers[0].text == Reference(chat.model, chat.tokenizer, text).greedy()[0]
    assert chat.usage.prompt_saved > 0


def test_chat_without_a_chat_template_is_refused(tiny_world: TinyWorld, models: dict[str, Any]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_world.folder)
    tokenizer.chat_template = None
    model = wrap(models["llama"], tokenizer)
    assert not model.has_chat_template
    with pytest.raises(ModelError, match=r"no chat template.*prompt\.template=plain"):
        PromptBuilder(PromptConfig(template="chat"), (), model.render_chat if model.has_chat_template else None)
