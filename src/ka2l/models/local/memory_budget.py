"""How much fits: tokens in one pass, rows decoded together, and what to do when that was too much."""

from typing import Any, NamedTuple

import torch

from ka2l.errors import ModelError

# Measured (docs/performance.md): on a CPU a matrix product reaches its rate at about 128 rows; more only needs memory.
_CPU_TOKENS, _CPU_ROWS = 512, 384
_GPU_TOKENS, _GPU_ROWS = 16384, 1024


class Costs(NamedTuple):
    """Bytes a model needs for its work."""

    token: int  # activations of one token in one pass
    column: int  # keys and values of one token
    row: int  # logits of one row, and what drawing from them takes


class Budget:
    """Tokens and rows of a pass; shrinks when memory runs out.

    Args:
        tokens: of one pass.
        rows: decoded together.
        slots: bytes for the keys and values of all rows; none: as many as there are rows.
        costs: what a row needs of them.
    """

    def __init__(self, tokens: int, rows: int, slots: int | None = None, costs: "Costs | None" = None):
        self.tokens = max(1, tokens)
        self.rows = max(1, rows)
        self._slots, self._costs = slots, costs

    def rows_of(self, columns: int) -> int:
        """Rows that may decode together when each has this many tokens of its own."""
        if self._slots is None or self._costs is None:
            return self.rows
        return max(1, min(self.rows, self._slots // (self._costs.column * columns + self._costs.row)))

    def halve(self, error: BaseException) -> None:
        """Less from now on.

        Raises:
            ModelError: there is nothing left to halve.
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
        """What one of several workers may use; when one runs out of memory, all get less."""
        return self if workers == 1 else _Share(self, workers)


class _Share(Budget):
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


def find_budget(model: Any, asked: int | str) -> Budget:
    """The budget for this model on its device: what was asked for, or what the free memory allows.

    Half of the free memory is for keys and values of rows that decode, a quarter for the activations of one pass.
    """
    if isinstance(asked, int):
        return Budget(asked, asked)
    costs = costs_of(model)
    on_gpu = model.device.type == "cuda"
    free = sum(_free_bytes(device) for device in {p.device for p in model.parameters()})
    most_tokens, most_rows = (_GPU_TOKENS, _GPU_ROWS) if on_gpu else (_CPU_TOKENS, _CPU_ROWS)
    return Budget(min(most_tokens, free // 4 // costs.token), most_rows, free // 2, costs)


def costs_of(model: Any) -> Costs:
    """Estimated from the shapes in the model's config."""
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
    """Whether memory ran out; the CPU allocator says so only in words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    return int(psutil.virtual_memory().available)
