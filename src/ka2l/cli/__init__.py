"""What is typed and what is printed.

May import every other room; heavy imports stand inside the function that needs them.
"""
