"""Where questions come from, and their roles, groups and duplicates.

May import `common` and `errors`.
"""
