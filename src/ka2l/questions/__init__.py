"""The questions: sources, columns, roles, groups and duplicates.

May import `common` and `errors`.
"""
