"""Inference engines: arrays in, arrays out."""
