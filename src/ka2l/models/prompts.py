"""The prompt builder, its two prompts, and the stop rule.

The *sensing prompt* (with shots) is byte for byte the same for sample, probe, map and check; its hash is in the probe's
card. The *teaching prompt* (without shots by default) is used for fine-tuning and for the tuned model. In both, an
answer ends at the first line break after some text, or with the model's turn.

    Answer the following question as briefly as possible.

    Question: What is the capital of France?
    Answer: Paris

    Question: What is the capital of Peru?
    Answer:
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ka2l.errors import ModelError
from ka2l.models.settings import PromptConfig, Template

Message = dict[str, str]
RenderChat = Callable[[list[Message]], str]


class Shot(NamedTuple):
    """A worked example: a question that is never scored, and its answer."""

    question: str
    answer: str


# Used if the question set has too few questions of role `shot`.
BUILTIN_SHOTS: tuple[Shot, ...] = (
    Shot("What is the largest planet in the solar system?", "Jupiter"),
    Shot("Who painted the Mona Lisa?", "Leonardo da Vinci"),
    Shot("How many legs does a spider have?", "Eight"),
    Shot("What is the chemical symbol of gold?", "Au"),
    Shot("In which year did the Second World War end?", "1945"),
    Shot("Which language is spoken in Brazil?", "Portuguese"),
    Shot("What gas do plants take in from the air?", "Carbon dioxide"),
    Shot("Who wrote Romeo and Juliet?", "William Shakespeare"),
)


class PromptBuilder:
    """Builds both prompts for one run.

    Args:
        config: instruction, template and numbers of shots.
        shots: candidates for worked examples, in order; filled up from `BUILTIN_SHOTS` if there are too few.
        render_chat: the tokenizer's chat template (messages → text); needed for template `chat`.

    Raises:
        ModelError: template `chat` without a chat template, or too few shots.
    """

    def __init__(self, config: PromptConfig, shots: Sequence[Shot] = (), render_chat: RenderChat | None = None):
        if config.template == "chat" and render_chat is None:
            raise ModelError(
                "prompt.template is 'chat', but this model's tokenizer has no chat template. "
                "Use prompt.template=plain, or a chat model."
            )
        self.config = config
        self.template: Template = config.template
        self._render_chat = render_chat
        self._shots = _choose_shots(shots, max(config.shots, config.teaching_shots))

    def sensing(self, question: str) -> str:
        """The sensing prompt, used for every measurement."""
        return self._build(question, self.config.shots)

    def sensing_messages(self, question: str) -> tuple[Message, ...]:
        """The sensing prompt as a conversation, with the worked examples as earlier turns."""
        return tuple(self._messages(question, self.config.shots))

    def teaching(self, question: str) -> str:
        """The teaching prompt, used for fine-tuning and for the tuned model."""
        return self._build(question, self.config.teaching_shots)

    def teaching_messages(self, question: str) -> tuple[Message, ...]:
        """The teaching prompt as a conversation, with the worked examples as earlier turns."""
        return tuple(self._messages(question, self.config.teaching_shots))

    def completion(self, answer: str) -> str:
        """The text that follows the teaching prompt in training."""
        return answer if self.template == "chat" else " " + answer

    @property
    def sensing_shots(self) -> tuple[Shot, ...]:
        """The worked examples of the sensing prompt."""
        return self._shots[: self.config.shots]

    @property
    def sensing_card(self) -> dict[str, Any]:
        """The sensing prompt as JSON values, for the cards of probes and decoders."""
        return {
            "instruction": self.config.instruction,
            "template": self.template,
            "shots": [list(shot) for shot in self.sensing_shots],
        }

    @property
    def sensing_hash(self) -> str:
        """SHA-256 (hex) of the sensing prompt with a placeholder as question."""
        return _hash(self.sensing("\x00"))

    @property
    def teaching_hash(self) -> str:
        """SHA-256 (hex) of the teaching prompt with a placeholder as question."""
        return _hash(self.teaching("\x00"))

    def _build(self, question: str, shots: int) -> str:
        if self._render_chat is None or self.template == "plain":
            blocks = [self.config.instruction]
            blocks += [f"Question: {shot.question}\nAnswer: {shot.answer}" for shot in self._shots[:shots]]
            blocks.append(f"Question: {question}\nAnswer:")
            return "\n\n".join(blocks)
        return self._render_chat(self._messages(question, shots))

    def _messages(self, question: str, shots: int) -> list[Message]:
        messages: list[Message] = []
        for shot in self._shots[:shots]:
            messages.append({"role": "user", "content": f"{self.config.instruction}\n{shot.question}"})
            messages.append({"role": "assistant", "content": shot.answer})
        messages.append({"role": "user", "content": f"{self.config.instruction}\n{question}"})
        return messages


def render_chat(tokenizer: Any, messages: list[Message]) -> str:
    """Text of a conversation under the tokenizer's chat template, ready for the answer."""
    # Some templates print the current date. The prompt would be different tomorrow, and the probe would not fit it.
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024"
    )
    return str(text)


def trim_answer(text: str) -> str:
    """The answer in a generated text: its first line that is not blank, without surrounding white space."""
    return text.strip().split("\n", 1)[0].strip()


def is_finished(text: str) -> bool:
    """Whether generated text has reached the stop rule: a line break after some text."""
    return "\n" in text.lstrip()


def _choose_shots(shots: Sequence[Shot], wanted: int) -> tuple[Shot, ...]:
    chosen = list(shots[:wanted])
    chosen += BUILTIN_SHOTS[: wanted - len(chosen)]
    if len(chosen) < wanted:
        raise ModelError(
            f"{wanted} shots are configured, but there are only {len(shots)} answered questions of role shot and "
            f"{len(BUILTIN_SHOTS)} built-in ones. Lower prompt.shots (and teaching_shots) to {len(chosen)}."
        )
    return tuple(chosen)


def _hash(text: str) -> str:
    return hashlib.sha256(json.dumps(text).encode()).hexdigest()
