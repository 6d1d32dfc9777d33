"""The whole configuration, put together from the settings of the rooms.

May import every room below the pipeline; only `pipeline`, `studies` and `cli` import it.
"""
