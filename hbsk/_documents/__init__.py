"""Values as documents: data only, which runs nothing when it is read."""
