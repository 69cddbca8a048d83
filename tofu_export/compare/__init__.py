"""Compare outputs, decisions and groups of tokens; numpy only."""
