"""What every room may use and code without dependencies on a room: text, intervals, files, progress, the Hub.

May import `errors`.
"""
