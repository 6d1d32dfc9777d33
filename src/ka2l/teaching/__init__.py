"""Who answers the selected questions, and how the model is fine-tuned on the answers.

May import `models`, `questions`, `common` and `errors`.
"""
