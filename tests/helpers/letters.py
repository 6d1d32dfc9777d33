"""A tokenizer whose tokens are letters."""

from typing import Any


class Letters:
    """A tokenizer whose tokens are letters: 0 → a, 1 → b, …, 9 → a line break, 8 → a full stop and a line break."""

    def decode(self, tokens: list[int], **_: Any) -> str:
        return "".join({9: "\n", 8: ".\n"}.get(token, chr(97 + token)) for token in tokens)
