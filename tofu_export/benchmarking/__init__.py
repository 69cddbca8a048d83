"""Time files, engines and eager models against each other."""
