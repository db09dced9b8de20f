"""The agent at a data owner: it holds data, model and ledger, and answers the coordinator."""
