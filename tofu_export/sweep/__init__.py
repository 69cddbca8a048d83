"""Measure a grid of reductions: cost, speed, and agreement with the full model.

`grid` defines the cells, `evaluate` and `timing` measure one cell, `workers` and `on_ray` distribute cells over
processes and machines, `store` keeps finished cells, `run` combines them, `tables` and `chart` show the results.
"""
