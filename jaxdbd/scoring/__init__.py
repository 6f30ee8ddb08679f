"""Measures of focus maps, each with its protocol, and tables of them."""
