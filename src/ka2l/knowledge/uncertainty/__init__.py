"""From sampled answers to scores: semantic clusters, semantic entropy, other scores, the threshold.

May import what `knowledge` may. Pure functions of strings and arrays.
"""
