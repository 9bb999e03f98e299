"""The `tbeast` command."""
