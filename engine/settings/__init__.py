"""The configs, one a module; `engine.config` is where they are imported from."""
