"""A language model in this process: batched sampling, hidden states, next-token signals.

May import what `models` may.
"""
