"""New questions decoded from hidden states: decoder networks, their training, and filters of what they generate.

May import `models`, `evaluation`, `questions`, `common` and `errors`.
"""
