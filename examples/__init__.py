"""Examples: a synthetic town as the world of the demo and of the system tests."""
