"""How much fits into memory: tokens in one pass and rows decoded together; less if memory runs out."""

from typing import Any, Literal, NamedTuple

import torch

from ka2l.errors import ModelError

# Measured (docs/performance.md): on a CPU a matrix product reaches its full rate at about 128 rows; more rows only need
# more memory.
_CPU_TOKENS, _CPU_ROWS = 512, 384
_GPU_TOKENS, _GPU_ROWS = 16384, 1024


class Costs(NamedTuple):
    """Memory that a model needs, in bytes."""

    token: int
    """Activations of one token in one pass."""
    column: int
    """Keys and values of one token."""
    row: int
    """Logits of one row, and the memory to draw from them."""


class Budget:
    """Most tokens and rows of a pass; reduced when memory runs out.

    Args:
        tokens: in one pass.
        rows: decoded together.
        slots: bytes for the keys and values of all rows; none: no limit besides `rows`.
        costs: memory per column and row, to apply `slots`.
    """

    def __init__(self, tokens: int, rows: int, slots: int | None = None, costs: "Costs | None" = None):
        self.tokens = max(1, tokens)
        self.rows = max(1, rows)
        self._slots, self._costs = slots, costs

    def rows_of(self, columns: int) -> int:
        """Most rows to decode together if each has this many tokens of its own."""
        if self._slots is None or self._costs is None:
            return self.rows
        return max(1, min(self.rows, self._slots // (self._costs.column * columns + self._costs.row)))

    def halve(self, error: BaseException) -> None:
        """Halve the budget.

        Raises:
            ModelError: it cannot be halved further.
        """
        if self.tokens == 1 and self.rows == 1:
            raise ModelError(
                "Memory runs out with a single prompt. Use fewer shots (prompt.shots), a smaller model, a shorter type "
                "(model.dtype=bfloat16) or another device."
            ) from error
        self.tokens, self.rows = max(1, self.tokens // 2), max(1, self.rows // 2)
        self._slots = None if self._slots is None else self._slots // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def share(self, workers: int) -> "Budget":
        """The budget of one of several workers; if one runs out of memory, the budget of all is halved."""
        return self if workers == 1 else _Share(self, workers)


class _Share(Budget):
    """An equal part of a budget that several workers use."""

    def __init__(self, whole: Budget, workers: int):
        self._whole, self._workers = whole, workers

    @property
    def tokens(self) -> int:  # type: ignore[override]
        return max(1, self._whole.tokens // self._workers)

    @property
    def rows(self) -> int:  # type: ignore[override]
        return max(1, self._whole.rows // self._workers)

    def rows_of(self, columns: int) -> int:
        return max(1, self._whole.rows_of(columns) // self._workers)

    def halve(self, error: BaseException) -> None:
        self._whole.halve(error)


def find_budget(model: Any, batch_tokens: int | Literal["auto"]) -> Budget:
    """The budget for this model on its device.

    Half of the free memory is for the keys and values of rows that are decoded, a quarter for the activations of one
    pass.

    Args:
        model: a causal language model.
        batch_tokens: tokens and rows; `auto`: what the free memory allows.
    """
    if isinstance(batch_tokens, int):
        return Budget(batch_tokens, batch_tokens)
    costs = costs_of(model)
    on_gpu = model.device.type == "cuda"
    free = sum(_free_bytes(device) for device in {p.device for p in model.parameters()})
    most_tokens, most_rows = (_GPU_TOKENS, _GPU_ROWS) if on_gpu else (_CPU_TOKENS, _CPU_ROWS)
    return Budget(min(most_tokens, free // 4 // costs.token), most_rows, free // 2, costs)


def costs_of(model: Any) -> Costs:
    """Memory that a model needs, estimated from the shapes in its config."""
    config = model.config.get_text_config(decoder=True)
    size = model.dtype.itemsize
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return Costs(
        token=size * (8 * config.hidden_size + 4 * inner),
        column=size * 2 * config.num_hidden_layers * kv_heads * width,
        row=4 * 4 * config.vocab_size,
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that memory ran out. The CPU allocator's error can only be recognised by its message."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    return int(psutil.virtual_memory().available)
