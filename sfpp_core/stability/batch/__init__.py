"""The command line: many files in parallel processes, resumable; tables, JSON lines, comparisons."""
