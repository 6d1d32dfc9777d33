"""The training data and settings of a run in the formats of other programs.

May import what `teaching` may.
"""
