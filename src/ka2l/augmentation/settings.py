"""Configuration sections `decoder` and `augment`: the hidden-state decoder's training, and its use."""

from typing import Annotated

from pydantic import Field

from ka2l.common.settings_section import PathOr, Positive, Section


class DecoderConfig(Section):
    """Training of the hidden-state decoder (Sections 3.3 and 4.3.2), on the questions of role `decoder`."""

    pretrained: Annotated[str, PathOr()] = ""
    """A trained decoder (folder or Hub id); empty: train one in this run."""
    pretrained_revision: str | None = None
    """Its Hub revision."""
    t5: Annotated[str, PathOr()] = ""
    """A T5 (folder or Hub id; paper: google-t5/t5-base), fully fine-tuned; empty: the language model itself, with
    LoRA.
    """
    t5_revision: str | None = None
    """Its Hub revision."""
    pseudo_tokens: Positive = 16
    """Pseudo-tokens that a T5 reads the state as (paper: 16)."""
    soft_tokens: Positive = 4
    """Soft tokens that the language model reads its own state as."""
    lora_rank: Positive = 16
    """Rank of the adapter, if the language model is the decoder."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate; none: 2e-3 for LoRA, 2e-4 for a T5 (paper)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of AdamW."""
    epochs: Positive = 3
    """Most passes over the decoder's questions."""
    minutes: Annotated[float, Field(ge=0)] = 0.0
    """Longest training in minutes; 0: no limit. With a limit, the decoder depends on the speed of the machine."""
    batch_tokens: Positive = 256
    """Tokens of questions in one update."""
    validation: Positive = 200
    """Questions kept out of training, for early stopping and the card."""
    eval_steps: Positive = 100
    """Updates between two validation checks, which are also checkpoints."""
    patience: Positive = 3
    """Validation checks without improvement before training stops."""

    @property
    def peak_rate(self) -> float:
        """The peak learning rate: `learning_rate`, or its default for this kind of decoder."""
        return self.learning_rate or (2e-4 if self.t5 else 2e-3)


class AugmentConfig(Section):
    """New unknown questions decoded from the hidden states of the selected questions (Section 3.3)."""

    per_question: Annotated[int, Field(ge=0, le=1000)] = 0
    """Questions decoded from the state of each selected question; 0: no augmentation."""
    noise: Annotated[float, Field(ge=0, le=10)] = 0.3
    """Gaussian noise on the state, in standard deviations of the states the decoder was trained on."""
    temperature: Annotated[float, Field(ge=0, le=5)] = 1.0
    """Temperature of the decoded question's tokens; 0 is greedy."""
    max_new_tokens: Annotated[int, Field(ge=4, le=512)] = 48
    """Longest decoded question in tokens."""
    budget: Positive | None = None
    """Most new questions to label, those most likely unknown first; none: as many as select.budget."""
    embedding_model: Annotated[str, PathOr("minilm")] = "minilm"
    """Sentence encoder that finds near-copies: `minilm` (packaged), a folder or a Hub id; empty: only equal texts are
    copies.
    """
    near_copy: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Cosine similarity from which a question counts as a copy."""
