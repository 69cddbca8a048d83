"""Export jobs: what is asked for, one pipeline for every kind of model, and an adapter for each kind."""
