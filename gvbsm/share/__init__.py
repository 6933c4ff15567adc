"""What leaves a run: its published folder read again, its copy for others, and the card of that copy."""
