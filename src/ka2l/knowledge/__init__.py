"""What a model knows, from strings and arrays alone: no file, no model. The one exception is `probes/probe_folder.py`.

May import `common` and `errors`.
"""
