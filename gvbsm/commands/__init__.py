"""Commands that look after runs."""
