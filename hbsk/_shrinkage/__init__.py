"""The mathematics of shrunken means: James-Stein, empirical Bayes, SURE."""
