"""What finished images are worth, by networks that guidance never saw."""
