"""A learning curve through measured points: what the next labels should bring, and when to stop.

May import what `studies` may.
"""
