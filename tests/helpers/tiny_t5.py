"""A T5 small enough for a test, with random weights: it can memorize a dozen questions in a second."""

from pathlib import Path

from tiny import tiny_facts, torch_seed, train_tokenizer

FACTS = tiny_facts()
SIZE = 32


def build_tiny_t5(folder: Path) -> None:
    """Save it and its tokenizer into `folder`; like every T5, its decoder starts with the padding token."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = train_tokenizer(FACTS)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=SIZE,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    with torch_seed(0):
        T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
