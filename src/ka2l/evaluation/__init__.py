"""Whether answers are right or wrong, and what fine-tuning taught and made the model forget.

May import `questions`, `common` and `errors`.
"""
