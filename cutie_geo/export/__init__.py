"""Finished masks in other programs' formats."""
