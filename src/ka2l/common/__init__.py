"""What every room may use and what knows no room: text, intervals, files, progress, the Hub.

May import `errors`.
"""
