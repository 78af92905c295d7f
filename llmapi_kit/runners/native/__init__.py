"""A decoder's step as one call into C, compiled on the machine that runs it."""
