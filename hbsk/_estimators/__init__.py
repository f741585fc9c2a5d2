"""What the public estimators share: parameters, formulas and groups, and the answers after fit."""
