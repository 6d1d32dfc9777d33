"""More than one fine-tuning: which strategy is worth it, and what the next labels should bring.

May import `pipeline` and every room below it.
"""
