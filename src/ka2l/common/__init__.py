"""What every room may use: text, intervals, files, progress, the Hub. It depends on no room.

May import `errors`.
"""
