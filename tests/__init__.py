"""Tests; a package, because installed packages bring a top-level `tests` of their own."""
