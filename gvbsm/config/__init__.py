"""What users write: rows, recipes, config.yaml, and messages about them."""
