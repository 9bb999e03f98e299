"""Tests of tbeast.codecs.openapi."""
