"""The HTML page of one run: plain values in, one self-contained page out.

May import `knowledge`, `common` and `errors`.
"""
