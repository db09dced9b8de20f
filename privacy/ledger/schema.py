"""The tables of a ledger's SQLite file."""

from .chain import COLUMNS

APPLICATION = 0x554D424C  # "UMBL": tells a ledger from any other SQLite file
ROW = ", ".join(COLUMNS)
TABLES = (
    """CREATE TABLE entries (
    number INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL,
    kind TEXT NOT NULL,
    noise_multiplier REAL NOT NULL,
    sampling_rate REAL NOT NULL,
    steps INTEGER NOT NULL,
    job TEXT NOT NULL,
    key TEXT NOT NULL,
    delta REAL NOT NULL,
    epsilon_limit REAL NOT NULL,
    replay INTEGER NOT NULL,
    recorded TEXT NOT NULL,
    version INTEGER NOT NULL,
    hash TEXT NOT NULL
)""",
    "CREATE TABLE identity (id TEXT NOT NULL)",
)
FROM_VERSION_1 = (
    "ALTER TABLE entries ADD COLUMN kind TEXT NOT NULL DEFAULT 'gaussian'",
    "ALTER TABLE entries ADD COLUMN version INTEGER NOT NULL DEFAULT 1",
    TABLES[1],
)
