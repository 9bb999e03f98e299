"""Each package here faces one outside thing, and it alone."""
