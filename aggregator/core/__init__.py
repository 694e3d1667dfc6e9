"""The decisions, as functions of values: what a window is, what is to be sent, what an answer means, when to try again.

Nothing here knows a database, a network, a file or a clock, so every rule is tried by calling it.
It imports `errors` and itself, and everything else may import it.
Begin with `model` and `states`, then `planner` and `retry`.
"""
