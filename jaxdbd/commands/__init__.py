"""One module per command: flags, one call, printing."""
