"""The CSV files of the data sets; README.md names their sources."""
