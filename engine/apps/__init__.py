"""The command line and other programs that people start."""
