"""Tests of the adapters that face the exchanges."""
