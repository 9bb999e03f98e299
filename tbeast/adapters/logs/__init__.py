"""The log, in forms that programs read."""
