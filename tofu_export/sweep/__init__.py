"""Measure a grid of reductions: what each costs, how fast it is, how often it still decides as the full model does.

`grid` says what is asked for, `evaluate` and `timing` measure one cell, `workers` and `on_ray` spread cells over
processes and machines, `store` keeps what is finished, `run` puts it together, `tables` and `chart` show it.
"""
