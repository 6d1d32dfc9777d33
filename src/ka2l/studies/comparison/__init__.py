"""Query strategies side by side: every policy, budget and seed on one Stage 1.

May import what `studies` may. Statistics take arrays and return values.
"""
