"""The line between a hub and its workers, and what they share."""
