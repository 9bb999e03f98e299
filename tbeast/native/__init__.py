"""Native parts: C that may be there or not."""
