"""The mathematics, arrays only: group sums, marginal posterior, integration. Knows of no estimator and no name."""
