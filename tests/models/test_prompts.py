"""The prompts to the byte, their hashes, and where an answer ends."""

from typing import Any

import pytest

from ka2l.errors import ModelError
from ka2l.models.prompts import BUILTIN_SHOTS, Message, PromptBuilder, Shot, is_finished, trim_answer
from ka2l.models.settings import PromptConfig

SHOTS = [Shot("What is the capital of France?", "Paris"), Shot("How many legs has a spider?", "Eight")]
PLAIN = """Answer the following question as briefly as possible.

Question: What is the capital of France?
Answer: Paris

Question: How many legs has a spider?
Answer: Eight

Question: What is the capital of Peru?
Answer:"""


def fake_chat(messages: list[Message]) -> str:
    return "".join(f"<{m['role']}>{m['content']}</>" for m in messages) + "<assistant>"


def builder(given: list[Shot] | None = None, render_chat: Any = None, **config: Any) -> PromptBuilder:
    return PromptBuilder(PromptConfig(**config), SHOTS if given is None else given, render_chat)


def test_the_plain_prompts_to_the_byte() -> None:
    prompts = builder(shots=2)
    assert prompts.sensing("What is the capital of Peru?") == PLAIN
    assert prompts.teaching("Who?") == (
        "Answer the following question as briefly as possible.\n\nQuestion: Who?\nAnswer:"
    )


def test_the_module_shows_what_it_builds() -> None:
    import ka2l.models.prompts

    shown = builder(shots=1).sensing("What is the capital of Peru?")
    indented = "\n".join("    " + line if line else "" for line in shown.split("\n"))
    assert indented in str(ka2l.models.prompts.__doc__)


def test_each_prompt_has_its_own_number_of_shots() -> None:
    prompts = builder(shots=1, teaching_shots=2)
    assert prompts.sensing("?").count("Question:") == 2
    assert prompts.teaching("?").count("Question:") == 3
    assert prompts.teaching("What is the capital of Peru?") == PLAIN
    assert prompts.sensing_hash != prompts.teaching_hash
    assert builder(shots=2, teaching_shots=2).sensing_hash == builder(shots=2, teaching_shots=2).teaching_hash


def test_all_sensing_prompts_share_what_comes_before_the_question() -> None:
    prompts = builder(shots=2)
    before, _, after = PLAIN.rpartition("What is the capital of Peru?")
    for question in ("Who?", "", "A\nB", "Question: x\nAnswer:"):
        assert prompts.sensing(question) == before + question + after


def test_the_chat_prompts() -> None:
    prompts = builder(shots=1, template="chat", instruction="Be brief.", render_chat=fake_chat)
    assert prompts.sensing("Who?") == (
        "<user>Be brief.\nWhat is the capital of France?</><assistant>Paris</><user>Be brief.\nWho?</><assistant>"
    )
    assert prompts.teaching("Who?") == "<user>Be brief.\nWho?</><assistant>"


def test_plain_stays_plain_for_a_chat_model() -> None:
    assert builder(shots=2, render_chat=fake_chat).sensing("What is the capital of Peru?") == PLAIN


def test_chat_needs_a_chat_template() -> None:
    with pytest.raises(ModelError, match=r"no chat template.*prompt\.template=plain"):
        builder(template="chat")


def test_prompt_and_completion_join() -> None:
    """One space after `Answer:`, as in the shots; a chat template ends where the answer begins."""
    plain, chat = builder(shots=1), builder(shots=1, template="chat", render_chat=fake_chat)
    assert (plain.teaching("Who?") + plain.completion("Ada")).endswith("Question: Who?\nAnswer: Ada")
    assert (chat.teaching("Who?") + chat.completion("Ada")).endswith("Who?</><assistant>Ada")
    # A taught example is what a shot shows, and what trim_answer reads back.
    shown = plain.sensing("Next?")
    assert plain.teaching(SHOTS[0].question).split("\n\n", 1)[1] + plain.completion("Paris") in shown
    for prompts in (plain, chat):
        assert trim_answer(prompts.completion("Paris") + "\n\nQuestion: …") == "Paris"


CHANGES: list[dict[str, Any]] = [
    {"instruction": "Answer."},
    {"shots": 1},
    {"shots": 3},
    {"template": "chat", "render_chat": fake_chat},
    {"template": "chat", "render_chat": lambda messages: fake_chat(messages) + " "},
    {"shots_are": [SHOTS[1], SHOTS[0]]},
    {"shots_are": [SHOTS[0], Shot("How many legs has a spider?", "8")]},
    {"shots_are": [SHOTS[0], Shot("How many legs does a spider have?", "Eight")]},
]


def test_the_hash_changes_with_anything_in_the_prompt() -> None:
    built = [builder(shots=2)]
    for change in CHANGES:
        arguments = {"shots": 2, **change}
        shots = arguments.pop("shots_are", SHOTS)
        config = {name: value for name, value in arguments.items() if name != "render_chat"}
        built.append(PromptBuilder(PromptConfig(**config), shots, arguments.get("render_chat")))
    assert len({prompts.sensing_hash for prompts in built}) == len(built)


def test_the_hash_does_not_change_with_the_question_or_what_is_not_in_the_prompt() -> None:
    prompts = builder(shots=2)
    before = prompts.sensing_hash
    prompts.sensing("Who?")
    assert prompts.sensing_hash == before == builder(shots=2).sensing_hash
    spare = [*SHOTS, Shot("Unused?", "Yes")]
    assert builder(spare, shots=2).sensing_hash == before
    assert builder(spare, shots=2, teaching_shots=3).sensing_hash == before
    assert builder(spare, shots=2, teaching_shots=3).teaching_hash != builder(shots=2).teaching_hash
    assert len(before) == 64


def test_builtin_shots_fill_up() -> None:
    prompts = builder(shots=4)
    text = prompts.sensing("Who?")
    for shot in (*SHOTS, *BUILTIN_SHOTS[:2]):
        assert f"Question: {shot.question}\nAnswer: {shot.answer}\n\n" in text
    assert BUILTIN_SHOTS[2].question not in text
    assert text.index(SHOTS[1].question) < text.index(BUILTIN_SHOTS[0].question)
    assert builder([], shots=len(BUILTIN_SHOTS)).sensing("Who?").count("Question:") == len(BUILTIN_SHOTS) + 1
    assert builder([], shots=0).sensing("Who?").count("Question:") == 1


def test_more_shots_than_there_are() -> None:
    with pytest.raises(
        ModelError,
        match=rf"12 shots .* only 2 .*Lower prompt\.shots \(and teaching_shots\) to {len(BUILTIN_SHOTS) + 2}",
    ):
        builder(shots=12)
    with pytest.raises(ModelError, match="12 shots"):
        builder(shots=0, teaching_shots=12)


def test_builtin_shots_are_different_questions() -> None:
    assert len({shot.question for shot in BUILTIN_SHOTS}) == len(BUILTIN_SHOTS)
    assert all(shot.answer.strip() == shot.answer and "\n" not in shot.answer for shot in BUILTIN_SHOTS)


@pytest.mark.parametrize(
    ("text", "answer", "finished"),
    [
        (" Paris", "Paris", False),
        (" Paris\n", "Paris", True),
        (" Paris\n\nQuestion: What", "Paris", True),
        (" Paris\nLyon", "Paris", True),
        ("\nParis", "Paris", False),
        ("\n\n  Paris \n", "Paris", True),
        ("", "", False),
        ("\n", "", False),
        (" \n \n", "", False),
        (" a b \t c ", "a b \t c", False),
        ("Paris\r\nLyon", "Paris", True),
        ("Port\u00a0Moresby\n", "Port\u00a0Moresby", True),
    ],
)
def test_where_an_answer_ends(text: str, answer: str, finished: bool) -> None:
    assert trim_answer(text) == answer
    assert is_finished(text) == finished


@pytest.mark.parametrize("text", [" Paris\nmore", "\n\n A b\n\nQ", "x\n"])
def test_a_finished_answer_does_not_change_any_more(text: str) -> None:
    """What the engine relies on when it lets a row go."""
    for end in range(len(text) + 1):
        if is_finished(text[:end]):
            assert trim_answer(text[:end]) == trim_answer(text)
