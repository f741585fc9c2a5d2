"""Binary, binomial and count responses with one grouping factor, integrated: arrays only, as the rest of the engine."""
