"""Configuration sections `annotate`, `finetune` and `export`."""

from typing import Annotated, Literal

from pydantic import Field

from ka2l.common.settings_section import Fraction, Positive, Section


class AnnotateConfig(Section):
    """Who gives the answers."""

    annotator: Literal["gold", "file"] = "gold"
    """`gold`: the answers in the question source; `file`: people, with --export and --import."""
    cost_per_label: Annotated[float, Field(ge=0)] = 0.0
    """Cost of one answer, in any currency; the report has the sum."""


class FinetuneConfig(Section):
    """LoRA on all linear modules (Section 4.3.3)."""

    lora_rank: Positive = 8
    """Rank of the adapter."""
    lora_alpha: Positive = 16
    """Scale of the adapter."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout inside the adapter."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate (paper, Table 2)."""
    epochs: Positive = 3
    """Passes over the training questions."""
    batch_size: Positive = 4
    """Examples per step and device."""
    gradient_accumulation: Positive = 2
    """Steps whose gradients are summed for one update."""
    warmup_ratio: Fraction = 0.1
    """Share of steps with rising learning rate."""
    max_length: Positive = 512
    """Longest example in tokens."""
    replay: Annotated[float, Field(ge=0)] = 1.0
    """Known pool questions per label that are taught too, with the model's own answers; they need no label."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed of the adapter, the order of examples and the draw of `replay`; none: the run's."""
    save_steps: Positive = 20
    """Updates between two checkpoints: the most that a crash can lose."""


class ExportConfig(Section):
    """The training files for other programs."""

    llama_factory_template: Annotated[str, Field(pattern=r"^\w*$")] = ""
    """LLaMA-Factory's name for the model's chat template, such as llama3; empty: the tokenizer's own, or plain
    prompts.
    """
