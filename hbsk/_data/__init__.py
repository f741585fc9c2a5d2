"""What arrives: tables of any container as named columns, labels as codes, checks of what stands beside them."""
