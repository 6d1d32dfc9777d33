"""The only code that talks to a language model: in this process, or on a server.

May import `knowledge` (the vocabulary of judges), `common` and `errors`.
"""
