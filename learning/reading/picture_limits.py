"""Most pixels of a picture. Those who only name these numbers load nothing that decodes one."""

LARGEST_PICTURE = 1_000_000
"""What a data owner declares if it says nothing else."""
MOST_PIXELS = 64_000_000
"""Before it is scaled, whatever is declared: a small file can unpack to any number."""
