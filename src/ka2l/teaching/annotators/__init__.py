"""Sources of answers: gold labels, a spreadsheet, a lookup. One file each.

May import what `teaching` may.
"""
