"""From hidden states to the probability that a question is unknown: fitting, layer choice, calibration, the file
format.

May import what `knowledge` may.
"""
