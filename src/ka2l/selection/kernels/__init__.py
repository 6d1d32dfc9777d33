"""The numerical kernels of the strategies, in blocks, so that the pool is never held in memory.

May import what `selection` may; nothing else of `selection`.
"""
