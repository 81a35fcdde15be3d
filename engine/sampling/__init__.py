"""The sampling loop, its step, and the noise it starts from."""
