"""Reading columns of a data file, whatever its format, as strings. Knows nothing of jobs or models."""
