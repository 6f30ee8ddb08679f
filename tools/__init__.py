"""Scripts that measure and draw what the documents report: python -m tools.NAME."""
