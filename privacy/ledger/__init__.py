"""An owner's ledger: what was spent, row by row in a chain of hashes, and its witness."""
