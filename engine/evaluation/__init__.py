"""What finished images are worth, told by networks that guidance never saw."""
