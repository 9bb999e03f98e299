"""The shared price cache and its in-process twin."""
