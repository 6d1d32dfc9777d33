"""Commands on a run other than running it: import, export, spreadsheets, a dry run, one question.

May import everything in `pipeline`.
"""
