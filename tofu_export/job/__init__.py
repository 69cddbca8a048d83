"""Export jobs: requests, one pipeline for every kind of model, and an adapter for each kind."""
