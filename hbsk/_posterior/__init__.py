"""What a posterior answers: rows, groups, draws, tables."""
