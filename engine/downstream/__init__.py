"""What a data set is worth to the next network: distilled, pruned or quantised with it, beside three other sets."""
