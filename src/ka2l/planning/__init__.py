"""What the next labels should buy: a learning curve through what was measured, with bands, and when to stop.

Pure functions over numbers, no files: `points` (scores and how noisy they are), `palm` (the curve and its band),
`advice` (the next batch, the target, the stopping rule). `ka2l plan` runs them through `pipeline.planning`.
"""
