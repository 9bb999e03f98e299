"""Tests of the native parts, which are skipped where there are none; see parts.py."""
