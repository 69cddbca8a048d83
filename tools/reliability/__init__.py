"""What the program does with damaged input, bad surroundings and a sudden end: `python -m tools.reliability`."""
