"""What noise is worth: epsilon of releases, and the noise that an epsilon needs."""
