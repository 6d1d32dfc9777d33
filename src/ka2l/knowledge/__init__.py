"""What a model knows, computed from strings and arrays: no file, no model. The one exception is
`probes/probe_folder.py`.

May import `common` and `errors`.
"""
