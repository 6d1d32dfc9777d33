"""Which questions to label: query strategies as pure functions over arrays with ids.

May import `common` and `errors`. No file, no model.
"""
