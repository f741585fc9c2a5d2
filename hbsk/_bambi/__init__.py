"""The one seam to Bambi and PyMC: the same model as a `bambi.Model`, its priors, its sampling."""
