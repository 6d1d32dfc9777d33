"""What is done with a run besides running it: import, export, spreadsheets, a dry run, one question.

May import everything in `pipeline`.
"""
