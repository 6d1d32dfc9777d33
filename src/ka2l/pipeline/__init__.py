"""The stages in order on one run directory.

May import every room below it. Inside, the order is: commands, run, stage_list, stages, shared and preflight, context,
content_keys, identities, stage_graph, stage and run_directory, manifest, arms; each may import those after it.
"""
