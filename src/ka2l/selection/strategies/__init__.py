"""One function a strategy; `selection/select.py` lists them in its table.

May import what `selection` may, and its kernels.
"""
