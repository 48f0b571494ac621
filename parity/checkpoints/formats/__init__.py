"""What the names in a file mean: a module for each project's format, each with `read` and `write`."""
