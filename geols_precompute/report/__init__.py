"""The quality report of a label store: what a person wants to see before training on it, in one HTML file."""
