"""Class alignment tokens (CAT): one learned embedding per class, the loop that learns it, and its files."""
