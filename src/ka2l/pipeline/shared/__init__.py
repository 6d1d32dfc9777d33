"""What several stages need of a run: its tables, passes over its questions, its judge, probe and decoder.

May import `context` and what is below it.
"""
