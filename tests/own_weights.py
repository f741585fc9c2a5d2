"""The weights of groups' own means in an estimate, as an array."""


def own_weights(estimator):
    """Return the only column of the only frame of `shrinkage_`."""
    (frame,) = estimator.shrinkage_.values()
    return frame.to_numpy()[:, 0]
