"""The DDIM loop and the noise it starts from."""
