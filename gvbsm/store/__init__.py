"""What lies on disk: keys, receipts, plans, locks, and the files of a run."""
