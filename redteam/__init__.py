"""The red team: attacks on a finished run, beside what the run claims."""
