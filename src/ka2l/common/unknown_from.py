"""The probability of being unknown from which a question is called unknown."""

UNKNOWN_FROM = 0.5  # p_unknown >= this: unknown
