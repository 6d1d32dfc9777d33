"""The probability of being unknown from which a question is called unknown."""

# p_unknown at or above this: unknown.
UNKNOWN_FROM = 0.5
