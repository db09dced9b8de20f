"""The server's and the client's own code on one machine: virtual clients, workers, grids."""
