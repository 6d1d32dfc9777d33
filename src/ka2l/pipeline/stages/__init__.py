"""One file a stage; each ends with its declaration. `pipeline/stage_list.py` lists them.

A stage may import `shared`, `preflight`, `context` and what is below them, and never another stage.
"""
