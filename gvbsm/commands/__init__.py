"""Commands that inspect and clean up runs."""
