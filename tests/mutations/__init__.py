"""Bugs planted on purpose, to see that the tests would notice them."""
