"""From a row to jobs: one file per stage, and the graph of a target. Imports no torch."""
