"""One file per stage; each ends with the stage's declaration. `pipeline/stage_list.py` lists them.

A stage may import `shared`, `preflight`, `context` and what is below them, and never another stage.
"""
