"""Pictures of results, drawn by matplotlib from tables; readable without colours, and equal for equal tables."""
