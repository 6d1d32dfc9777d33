"""LoRA fine-tuning. `lora.py` is the only file that trains a language model.

May import what `teaching` may.
"""
