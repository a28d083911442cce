"""What exists: the papers, the registry of methods, search."""
