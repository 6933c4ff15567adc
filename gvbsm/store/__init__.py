"""The files of the store and of runs: keys, receipts, plans, locks."""
