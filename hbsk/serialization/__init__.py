"""Fitted estimators as JSON, data only."""

from hbsk.serialization._json import from_json, to_json

__all__ = ["from_json", "to_json"]
