"""One small script per rule: read artifacts, call the library, write one artifact."""
