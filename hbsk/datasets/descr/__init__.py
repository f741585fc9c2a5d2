"""Descriptions of the data sets, as in the attribute DESCR."""
