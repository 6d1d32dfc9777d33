"""The only code that runs a language model in this process, or sends requests to one on a server.

May import `knowledge` (the vocabulary of judges), `common` and `errors`.
"""
