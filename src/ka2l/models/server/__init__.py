"""A language model behind an OpenAI-compatible server; answers that were paid for are kept.

May import what `models` may.
"""
