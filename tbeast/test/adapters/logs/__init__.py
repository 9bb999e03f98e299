"""Tests of the log's forms."""
