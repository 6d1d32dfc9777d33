"""The engine against plain transformers: the same tokens, states and probabilities, whatever the batch around them.

The reference is one unpadded prompt at a time: `generate` without sampling, and one forward pass. Models are the
trained tiny Llama and random ones of four architectures, two of them awkward: GPT-2 has absolute positions, and
the Mistral here has a sliding window shorter than its prompts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ka2l.errors import ModelError
from ka2l.models.interface import Answer, Position, Prompt, SampledQuestion, Usage
from ka2l.models.loading import ResolvedModel, resolve
from ka2l.models.local import answer_tree
from ka2l.models.local.local_model import LocalModel
from ka2l.models.local.memory_budget import Budget
from ka2l.models.prompts import PromptBuilder
from ka2l.models.settings import ModelConfig, PromptConfig
from reference import NEW_TOKENS, Reference, assert_close
from reference import builder as builder
from reference import tokenizer as tokenizer
from tiny import TinyWorld

WINDOW = 24  # of the sliding models: shorter than any prompt with shots
RANDOM_MODELS = ("llama", "gpt2", "qwen2", "mistral")
MODELS = ("trained", *RANDOM_MODELS)


@pytest.fixture(scope="module")
def prompts(tiny_world: TinyWorld, builder: PromptBuilder) -> list[Prompt]:
    """Prompts of mixed lengths: known and unknown facts, and questions much longer than the others."""
    facts = tiny_world.known[5:10] + tiny_world.unknown[:4]
    asked = [(fact["id"], fact["question"]) for fact in facts]
    asked += [("long", "What is the capital of " + "Kalobe and of " * 9 + "Kalobe?"), ("short", "Who?")]
    return [Prompt(name, builder.sensing(question)) for name, question in asked]


@pytest.fixture(scope="module")
def models(tiny_world: TinyWorld, tokenizer: Any) -> dict[str, Any]:
    """Each architecture once; a test wraps it in a fresh LocalModel."""
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id, "pad_token_id": 2}
    size: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,  # far from uniform, so that greedy choices are not ties
        **ids,
    }
    short = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512, "initializer_range": 0.3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return {
            "trained": LlamaForCausalLM.from_pretrained(tiny_world.folder).eval(),
            "llama": LlamaForCausalLM(LlamaConfig(**size)).eval(),
            "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **short, **ids)).eval(),
            # Full attention in the first two layers, a sliding window in the last.
            "qwen2": Qwen2ForCausalLM(
                Qwen2Config(**size, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2)
            ).eval(),
            "mistral": MistralForCausalLM(MistralConfig(**size, sliding_window=WINDOW)).eval(),
        }


def wrap(model: Any, tokenizer: Any, build: Any = None) -> LocalModel:
    """A model of its own, so that one test's prefix is not another's."""
    local = LocalModel(model, tokenizer, ResolvedModel("tiny", "tiny", "0"))
    if build is not None:
        local.share_prefix(build)
    return local


def sample(
    model: LocalModel,
    prompts: Sequence[Prompt],
    temperatures: Sequence[float] = (0.0,),
    *,
    rows: int = 4,
    max_new_tokens: int = NEW_TOKENS,
    position: Position | None = None,
    seed: int = 0,
) -> dict[str, SampledQuestion]:
    """Samples numbered from 0; `rows` is the most that is computed together."""
    model.budget = Budget(16 * rows, rows)
    made = model.sample(
        prompts,
        dict(enumerate(temperatures)),
        seed=seed,
        max_new_tokens=max_new_tokens,
        position=position,
    )
    results = list(made)
    assert sorted(result.question_id for result in results) == sorted(
        prompt.question_id for prompt in prompts
    )
    return {result.question_id: result for result in results}


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


def test_answers_that_agree_so_far_are_computed_once(
    models: dict[str, Any], tokenizer: Any, builder: PromptBuilder, prompts: list[Prompt]
) -> None:
    for rows in (1, 64):
        model = wrap(models["trained"], tokenizer, builder.sensing)
        one = sample(model, prompts, (0.0,), rows=rows)
        alone = model.usage.decoded
        model.usage = Usage()
        same = sample(model, prompts, (0.0,) * 5, rows=rows)
        assert model.usage.decoded == alone
        assert model.usage.decoded_saved == 4 * alone
        for name, result in same.items():
            assert result.answers == one[name].answers * 5
    model.usage = Usage()
    mixed = sample(model, prompts, (0.0, *(1.0,) * 9))
    answers = [answer for result in mixed.values() for answer in result.answers]
    # Every token but the first (the prompt's pass gives it) was either computed or shared. A stop token is not kept.
    total = model.usage.decoded + model.usage.decoded_saved
    assert sum(max(len(a.token_logprobs) - 1, 0) for a in answers) <= total
    assert total <= sum(len(a.token_logprobs) for a in answers)
    assert model.usage.decoded_saved > 0


def test_prompts_that_do_not_begin_with_the_prefix_are_computed_in_full(
    models: dict[str, Any], tokenizer: Any, builder: PromptBuilder, prompts: list[Prompt]
) -> None:
    odd = [*prompts[:3], Prompt("odd", "Something else entirely:")]
    made = sample(wrap(models["trained"], tokenizer, builder.sensing), odd, position="tbg")
    for prompt in odd:
        reference = Reference(models["trained"], tokenizer, prompt.text)
        assert made[prompt.question_id].answers[0].text == reference.greedy()[0]
        assert_close(np.asarray(made[prompt.question_id].states), reference.states())


@pytest.mark.parametrize("name", MODELS)
def test_greedy_answers_do_not_depend_on_the_batch_size(
    name: str, models: dict[str, Any], tokenizer: Any, builder: PromptBuilder, prompts: list[Prompt]
) -> None:
    model = wrap(models[name], tokenizer, builder.sensing)
    texts = []
    for rows in (1, 3, 64):
        made = sample(model, prompts, rows=rows)
        texts.append({name: (r.answers[0].text, r.answers[0].finish_reason) for name, r in made.items()})
    assert texts[0] == texts[1] == texts[2]


def test_a_row_that_stops_early_does_not_truncate_the_others(
    models: dict[str, Any], tokenizer: Any, tiny_world: TinyWorld, builder: PromptBuilder
) -> None:
    """SPEC item 3: answers cut short by another row's end became labels."""
    facts = [fact for fact in tiny_world.known if " " in fact["answers"][0]][:3] + tiny_world.known[:6]
    prompts = [Prompt(fact["id"], builder.sensing(fact["question"])) for fact in facts]
    prompts = list(dict.fromkeys(prompts))
    model = wrap(models["trained"], tokenizer, builder.sensing)
    made = sample(model, prompts, (0.0, 1.0, 1.0), rows=64, max_new_tokens=16)
    lengths = {len(answer.token_logprobs) for result in made.values() for answer in result.answers}
    assert len(lengths) > 1, "the test needs rows that end at different steps"
    for prompt in prompts:
        text, tokens, reason = Reference(models["trained"], tokenizer, prompt.text).greedy(16)
        answer = made[prompt.question_id].answers[0]
        assert (answer.text, len(answer.token_logprobs), answer.finish_reason) == (text, len(tokens), reason)


def test_the_length_limit_is_kept_and_said(
    models: dict[str, Any], tokenizer: Any, prompts: list[Prompt]
) -> None:
    made = sample(wrap(models["trained"], tokenizer), prompts[:2], (0.0, 1.0), max_new_tokens=1)
    for result in made.values():
        for answer in result.answers:
            assert len(answer.token_logprobs) <= 1
            assert answer.finish_reason == "length"


def test_samples_do_not_depend_on_the_batch_and_five_are_the_first_of_ten(
    models: dict[str, Any], tokenizer: Any, builder: PromptBuilder, prompts: list[Prompt]
) -> None:
    model = wrap(models["trained"], tokenizer, builder.sensing)
    ten = sample(model, prompts, (0.0, *[1.0] * 10), rows=64)
    five = sample(model, prompts[::-1], (0.0, *[1.0] * 5), rows=2)
    alone = sample(model, prompts[4:5], (0.0, *[1.0] * 5))
    for name, result in five.items():
        assert [answer.text for answer in result.answers] == [a.text for a in ten[name].answers[:6]]
    name = prompts[4].question_id
    assert [answer.text for answer in alone[name].answers] == [a.text for a in five[name].answers]
    assert len({answer.text for result in ten.values() for answer in result.answers[1:]}) > len(ten)
    other = sample(model, prompts, (0.0, *[1.0] * 10), rows=64, seed=1)
    assert any(other[name].answers[1:] != ten[name].answers[1:] for name in ten)
    assert all(other[name].answers[0].text == ten[name].answers[0].text for name in ten)


@pytest.mark.parametrize("name", ["trained", "gpt2", "mistral"])
def test_sampled_logprobs_equal_a_rescoring_pass(
    name: str,
    models: dict[str, Any],
    tokenizer: Any,
    builder: PromptBuilder,
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows leave the batch at different steps and two temperatures stand side by side; every number stays right."""
    kept: list[tuple[int, int, list[int], list[float]]] = []
    finish = answer_tree._finish

    def remember(question: Any, samples: Any, tokens: Any, logprobs: Any, *others: Any) -> None:
        kept.extend((question.index, number, tokens, logprobs) for number in samples)
        finish(question, samples, tokens, logprobs, *others)

    monkeypatch.setattr(answer_tree, "_finish", remember)
    model = wrap(models[name], tokenizer, builder.sensing)
    made = sample(model, prompts[:6], (0.1, 1.0, 1.0, 2.0), rows=6)
    assert len(kept) == 24
    assert len({len(tokens) for _, _, tokens, _ in kept}) > 1 or name != "trained"
    for index, number, tokens, logprobs in kept:
        prompt = prompts[index]
        answer = made[prompt.question_id].answers[number]
        reference = Reference(models[name], tokenizer, prompt.text)
        assert (answer.text, answer.token_logprobs) == (reference.text(tokens), logprobs)
        assert logprobs == pytest.approx(reference.logprobs(tokens), abs=2e-4)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_samples_follow_the_models_own_probabilities(
    temperature: float,
    models: dict[str, Any],
    tokenizer: Any,
    builder: PromptBuilder,
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """First tokens, and second tokens given the likeliest first, against a plain forward pass (chi-square)."""
    from scipy.stats import chisquare

    drawn: list[list[int]] = []

    def remember(question: answer_tree.Question, samples: list[int], tokens: list[int], *_: Any) -> None:
        drawn.extend([tokens] * len(samples))
        question.answers.update(dict.fromkeys(samples, Answer("", [], "stop")))

    monkeypatch.setattr(answer_tree, "_finish", remember)

    n = 6000
    model = wrap(models["llama"], tokenizer, builder.sensing)
    sample(model, prompts[:1], (temperature,) * n, max_new_tokens=2, rows=2000)
    assert len(drawn) == n
    ids = tokenizer(prompts[0].text, return_tensors="pt")["input_ids"]
    firsts = [tokens[0] for tokens in drawn if tokens]
    first = max(set(firsts), key=firsts.count)
    seconds = [tokens[1] for tokens in drawn if tokens[:1] == [first] and len(tokens) == 2]
    assert len(seconds) > 300
    for before, tokens in ((ids, firsts), (torch.cat([ids, torch.tensor([[first]])], dim=1), seconds)):
        with torch.inference_mode():
            exact = torch.softmax(models["llama"](before).logits[0, -1].double() / temperature, -1).numpy()
        exact[tokenizer.eos_token_id] = 0  # an answer that ends keeps no token for it
        exact /= exact.sum()
        counts = np.bincount(tokens, minlength=len(exact))
        likely = exact * len(tokens) >= 5
        assert likely.sum() >= 5
        observed = [*counts[likely], counts[~likely].sum()]
        expected = np.array([*exact[likely], exact[~likely].sum()]) * len(tokens)
        assert chisquare(observed, expected).pvalue > 1e-3


def test_the_trained_model_knows_what_it_was_taught(
    models: dict[str, Any], tokenizer: Any, tiny_world: TinyWorld, builder: PromptBuilder
) -> None:
    facts = tiny_world.known[3:13]
    made = sample(
        wrap(models["trained"], tokenizer, builder.sensing),
        [Prompt(fact["id"], builder.sensing(fact["question"])) for fact in facts],
    )
    right = [made[fact["id"]].answers[0].text in fact["answers"] for fact in facts]
    assert sum(right) >= 9


@pytest.fixture
def broken(tiny_world: TinyWorld) -> Any:
    """The trained model with NaN weights in its second block."""
    model = LlamaForCausalLM.from_pretrained(tiny_world.folder).eval()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    return model


def test_nan_weights_are_reported_with_layer_and_question(
    broken: Any, tokenizer: Any, prompts: list[Prompt]
) -> None:
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
    with pytest.raises(
        ModelError, match=rf"question far: its prompt has {2 * n} tokens, but the model reads {limit}"
    ):
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
        PromptBuilder(
            PromptConfig(template="chat"), (), model.render_chat if model.has_chat_template else None
        )


def test_resolve_names_what_it_tried(tmp_path: Path, tiny_world: TinyWorld) -> None:
    for name in (str(tmp_path / "nothing"), "./nothing", "a/b/c"):
        with pytest.raises(ModelError, match=r"no such folder"):
            resolve(ModelConfig(name=name))
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        resolve(ModelConfig(name=str(tmp_path)))
    found = resolve(ModelConfig(name=str(tiny_world.folder)))
    assert found.path == str(tiny_world.folder.resolve())
    assert found.revision.startswith("sha256-")


def test_a_hub_id_while_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"nobody/no-such-model: no such model.*the Hub says"):
        resolve(ModelConfig(name="nobody/no-such-model"))


def test_a_folders_revision_changes_with_its_weights(tmp_path: Path, tiny_world: TinyWorld) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(tiny_world.folder, folder)
    config = ModelConfig(name=str(folder))
    before = resolve(config).revision
    assert before == resolve(ModelConfig(name=str(tiny_world.folder))).revision
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = weights[name] + 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert resolve(config).revision != before


@pytest.mark.parametrize("damage", ["truncated weights", "no tokenizer", "config is not JSON"])
def test_a_damaged_folder_is_a_model_error(tmp_path: Path, tiny_world: TinyWorld, damage: str) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(tiny_world.folder, folder)
    if damage == "truncated weights":
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "no tokenizer":
        for file in folder.glob("tokenizer*"):
            file.unlink()
    else:
        (folder / "config.json").write_text("{")
    config = ModelConfig(name=str(folder), device="cpu")
    with pytest.raises(ModelError, match="cannot load this model"):
        LocalModel.load(config, resolve(config))


def test_cuda_where_there_is_none(tiny_world: TinyWorld) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    config = ModelConfig(name=str(tiny_world.folder), device="cuda")
    with pytest.raises(ModelError, match=r"model\.device is cuda"):
        LocalModel.load(config, resolve(config))
