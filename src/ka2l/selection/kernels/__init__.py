"""The numerical kernels of the strategies: centers, seedings, clusters, typicality, coverage. Pure functions of arrays.

Rows `x` are [rows, width] of any float type and may be a memory map: they are read in blocks (`distance_blocks.CHUNK`),
so that the pool is never in memory as a whole. Arithmetic is float32. `device` is "cpu" or a CUDA device. Row numbers
are returned in the order in which they were picked; ties go to the lower row. Order and draws are those of the plain
algorithms, up to float32 rounding, but the rows are not read once per pick: picks are made in advance where they are
certain to be right (`lookahead`), and the distances of all rows are then updated in one matrix product.

May import what `selection` may; nothing else of `selection`.
"""
