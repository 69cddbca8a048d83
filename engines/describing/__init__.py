"""What is in an engine, and what is known of it."""
