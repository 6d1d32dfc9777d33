"""Models that say whether two answers mean the same: NLI, embeddings, a language model.

May import what `models` may.
"""
