"""The equations of the paper as pure functions on batches; imports torch and nothing else of this package."""
