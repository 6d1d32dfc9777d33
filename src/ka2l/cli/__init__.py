"""The command line: its arguments and what it prints.

May import every other room; heavy imports stand inside the function that needs them.
"""
