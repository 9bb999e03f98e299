"""What starts and stops."""
