"""What a data set is worth to the next network: distilled, pruned or quantised with it, and with three other sets."""
