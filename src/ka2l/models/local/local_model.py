"""A model that runs in this process: one prefill per question gives the states of every layer and starts all answers.

The tokens that all prompts begin with (instruction and shots) are computed once per run, and each question's own tokens
once. Its answers are decoded from there as a tree (`answer_tree`). Every answer has its own random stream, derived from
(seed, question id, sample number), so the rest of the batch only changes the rounding of the last digits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.errors import ModelError
from ka2l.models.interface import NextTokenSignals, Position, Prompt, SampledQuestion, Usage
from ka2l.models.loading import ResolvedModel, load_causal_lm
from ka2l.models.local.answer_tree import Question
from ka2l.models.local.cpu_workers import in_groups, together, workers_for
from ka2l.models.local.hidden_states import check_logits, check_states, to_numpy
from ka2l.models.local.memory_budget import find_budget
from ka2l.models.local.next_token import first_tokens, undecided
from ka2l.models.local.sampling_loop import Engine
from ka2l.models.local.shared_prefix import SharedPrefix, exact_length
from ka2l.models.local.token_draws import StopRule, stop_ids, uniforms
from ka2l.models.local.two_part_attention import two_part
from ka2l.models.local.unshared_passes import PlainPasses
from ka2l.models.prompts import Message, render_chat
from ka2l.models.settings import ModelConfig, Template

Passes = SharedPrefix | PlainPasses
T = TypeVar("T")

# Two questions with nothing in common: the tokens that their prompts share are shared by all prompts.
_UNLIKE = ("0", "Who is it?")
# Messages that were already shown in this process.
_SAID: set[str] = set()


class LocalModel:
    """Implements `ka2l.models.interface.LanguageModel` with transformers.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer, with a padding token.
        resolved: name and revision, for cards and content keys.
        special_tokens: whether the tokenizer adds special tokens (off for chat prompts, whose template has them).
        batch_tokens: tokens computed together; `auto`: what the free memory allows.
        say: called with messages for the user.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        resolved: ResolvedModel,
        *,
        special_tokens: bool = True,
        batch_tokens: int | Literal["auto"] = "auto",
        say: Callable[[str], None] = lambda _text: None,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.resolved = resolved
        self.special_tokens = special_tokens
        self.usage = Usage()
        self.say = say
        self.n_layers: int = model.config.get_text_config(decoder=True).num_hidden_layers
        self.budget = find_budget(model, batch_tokens)
        self._rule = StopRule(tokenizer, stop_ids(model, tokenizer))
        self._filler: int = tokenizer.pad_token_id or 0
        self._known: list[int] = []
        # By whether it has the run's prefix; the other one has an empty prefix.
        self._shared: dict[bool, SharedPrefix] = {}
        # See `_exact_length`; None: not yet tried.
        self._exact_up_to: int | None = None

    @classmethod
    def load(
        cls,
        config: ModelConfig,
        resolved: ResolvedModel,
        *,
        template: Template = "plain",
        adapter: Any = None,
        say: Callable[[str], None] = lambda _text: None,
    ) -> "LocalModel":
        """Load weights and tokenizer; `adapter` is a folder of LoRA weights to merge into the model."""
        model, tokenizer = load_causal_lm(config, resolved, adapter)
        special = template == "plain"
        return cls(model, tokenizer, resolved, special_tokens=special, batch_tokens=config.batch_tokens, say=say)

    @property
    def device(self) -> torch.device:
        """The device of the inputs."""
        device: torch.device = self.model.device
        return device

    def render_chat(self, messages: list[Message]) -> str:
        """Text of a conversation under the model's chat template, ready for the answer."""
        return render_chat(self.tokenizer, messages)

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @torch.inference_mode()
    def share_prefix(self, build: Callable[[str], str]) -> None:
        """Compute once the tokens that every prompt of `build` begins with.

        They are found from two fixed questions, not from the prompts of a call, so that prefix and question are split
        at the same token in every batch. Only then does an interrupted run give the same results as an uninterrupted
        one.
        """
        first, second = self._encode([Prompt("", build(text)) for text in _UNLIKE])
        length = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
        self._known = first[:length]
        self._shared.pop(True, None)
        if length and length < self._exact_length():
            self._shared[True] = SharedPrefix(self.model, self._known, self._filler)
            self.usage += Usage(prompt=length)

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Prompt],
        temperatures: Mapping[int, float],
        *,
        seed: int,
        max_new_tokens: int,
        position: Position | None = None,
    ) -> Iterator[SampledQuestion]:
        """See `Sampler.sample`. Yields as questions finish."""
        names = [prompt.question_id for prompt in prompts]
        for passes, indices, parts in self._by_passes(self._encode(prompts, answer=max_new_tokens), max_new_tokens):
            numbers = list(temperatures)
            questions = [
                Question(i, part, temperatures, partial(uniforms, seed, names[i], numbers, max_new_tokens))
                for i, part in zip(indices, parts, strict=True)
            ]
            options: Any = {"max_new_tokens": max_new_tokens, "position": position}
            for done in self._answer(passes, questions, names, options):
                answers = [done.answers[number] for number in temperatures]
                yield SampledQuestion(names[done.index], answers, done.states)

    def _answer(
        self, passes: Passes, questions: list[Question], names: list[str], options: dict[str, Any]
    ) -> Iterator[Question]:
        """Answer questions whose prompts are computed by `passes`; yields them as they finish."""
        if isinstance(passes, SharedPrefix):
            workers = workers_for(self.device, len(questions))
            share = self.budget.share(workers)
            by_length = sorted(questions, key=lambda q: (len(q.part), q.index))
            engines = [
                Engine(passes, by_length[i::workers], names, self._rule, budget=share, **options)
                for i in range(workers)
            ]
            try:
                with two_part(self.model):
                    yield from together([engine.run() for engine in engines])
            finally:
                self.usage = sum((engine.usage for engine in engines), self.usage)
            return

        def work(group: list[int]) -> None:
            batch = [questions[i] for i in group]
            ids = [names[question.index] for question in batch]
            self.usage += passes.sample(batch, ids, self._rule, **options)

        samples = len(questions[0].temperatures) if questions else 1
        for group, _ in in_groups([q.part for q in questions], work, self.budget, samples):
            yield from (questions[i] for i in group)

    @torch.inference_mode()
    def states(self, prompts: Sequence[Prompt], layer: int | None, *, position: Position) -> NDArray[np.float32]:
        """See `LanguageModel.states`."""
        shape = (self.n_layers + 1,) if layer is None else ()
        width = self.model.config.get_text_config(decoder=True).hidden_size
        states = np.empty((len(prompts), *shape, width), dtype=np.float32)

        def work(passes: Passes, parts: list[list[int]], names: list[str]) -> NDArray[np.float32]:
            of_parts = to_numpy(passes.states(parts, layer, position))
            check_states(of_parts if layer is None else of_parts[:, None], names, layer or 0)
            return of_parts

        for rows, of_rows in self._over_prompts(prompts, work):
            states[rows] = of_rows
        return states

    @torch.inference_mode()
    def next_token_signals(self, prompts: Sequence[Prompt]) -> NextTokenSignals:
        """See `LanguageModel.next_token_signals`."""
        return NextTokenSignals(*np.ascontiguousarray(self._of_next_token(prompts, (3,), undecided).T))

    @torch.inference_mode()
    def choice_log_probabilities(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> NDArray[np.float32]:
        """See `LanguageModel.choice_log_probabilities`."""
        begin = first_tokens(self.tokenizer, prompts, choices)
        of_tokens = self._of_next_token(begin.prompts, (len(begin.tokens),), begin.log_probabilities)
        return np.take_along_axis(of_tokens, begin.columns, axis=1)

    def _of_next_token(
        self, prompts: Sequence[Prompt], shape: tuple[int, ...], measure: Callable[[Any], torch.Tensor]
    ) -> NDArray[np.float32]:
        """What `measure` computes from the logits after each prompt, float32 [prompts, *shape]."""
        result = np.empty((len(prompts), *shape), dtype=np.float32)

        def work(passes: Passes, parts: list[list[int]], names: list[str]) -> NDArray[np.float32]:
            logits = passes.prefill(parts).logits.float()
            check_logits(logits, names)
            return to_numpy(measure(logits))

        for rows, of_rows in self._over_prompts(prompts, work):
            result[rows] = of_rows
        return result

    def _over_prompts(
        self,
        prompts: Sequence[Prompt],
        work: Callable[[Passes, list[list[int]], list[str]], NDArray[np.float32]],
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Process all prompts, pass by pass; yields places in `prompts` and the result of `work` for them."""
        for passes, indices, parts in self._by_passes(self._encode(prompts)):

            def one(
                group: list[int],
                passes: Passes = passes,
                indices: list[int] = indices,
                parts: list[list[int]] = parts,
            ) -> NDArray[np.float32]:
                names = [prompts[indices[i]].question_id for i in group]
                return work(passes, [parts[i] for i in group], names)

            in_two = isinstance(passes, SharedPrefix)
            workers = workers_for(self.device, len(parts)) if in_two else 1
            with two_part(self.model) if in_two else nullcontext():
                for group, result in in_groups(parts, one, self.budget, workers=workers):
                    yield [indices[i] for i in group], result
            shared = len(passes.tokens) if isinstance(passes, SharedPrefix) else 0
            self.usage += Usage(prompt=sum(map(len, parts)), prompt_saved=shared * len(parts))

    def _by_passes(
        self, encoded: list[list[int]], answer: int = 0
    ) -> Iterator[tuple[Passes, list[int], list[list[int]]]]:
        """Group prompts by how they are computed: after the run's prefix, without a prefix, or by the model itself.

        Args:
            encoded: the prompts' tokens.
            answer: most tokens of an answer.

        Yields:
            the passes, places in `encoded`, and the tokens to compute of each.
        """
        known, exact = self._known, self._exact_length() if encoded else 0
        behind = [len(t) > len(known) and t[: len(known)] == known and True in self._shared for t in encoded]
        for prefixed in (True, False):
            mine = [i for i, t in enumerate(encoded) if behind[i] == prefixed and len(t) + answer <= exact]
            if mine:
                if prefixed not in self._shared:
                    self._shared[False] = SharedPrefix(self.model, [], self._filler)
                yield self._shared[prefixed], mine, [encoded[i][len(known) * prefixed :] for i in mine]
        rest = [i for i, t in enumerate(encoded) if len(t) + answer > exact]
        if rest:
            if exact:
                self._say_once(f"prompts of more than {exact} tokens exceed its window or its usual positions")
            yield PlainPasses(self.model, known, self._filler), rest, [encoded[i] for i in rest]

    def _exact_length(self) -> int:
        """The longest prompts that are computed exactly in two parts; see `exact_length`. It is tried once."""
        if self._exact_up_to is None:
            text = "Question: Which of these is it, and who says so?"
            tokens: list[int] = self.tokenizer(text, add_special_tokens=self.special_tokens)["input_ids"]
            self._exact_up_to, why = exact_length(self.model, tokens, self._filler)
            if why:
                self._say_once(why)
        return self._exact_up_to

    def _say_once(self, reason: str) -> None:
        """Tell the user, once per process and model, why nothing is shared."""
        text = (
            f"{self.resolved.name}: {reason}, so they are computed in full and nothing is shared: slower, but as exact."
        )
        if text not in _SAID:
            _SAID.add(text)
            self.say(text)

    def _encode(self, prompts: Sequence[Prompt], answer: int = 0) -> list[list[int]]:
        """Token ids of the prompts.

        Raises:
            ModelError: a prompt is empty, or does not fit into the model's context together with `answer` tokens.
        """
        texts = [prompt.text for prompt in prompts]
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=self.special_tokens)["input_ids"]
        limit = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        for prompt, tokens in zip(prompts, ids, strict=True):
            if not tokens:
                raise ModelError(f"question {prompt.question_id}: its prompt has no tokens.")
            if limit and len(tokens) + answer > limit:
                also = f" and its answer up to {answer}" if answer else ""
                raise ModelError(
                    f"question {prompt.question_id}: its prompt has {len(tokens)} tokens{also}, but the model reads "
                    f"{limit}. Shorten the question or use fewer shots."
                )
        return ids
