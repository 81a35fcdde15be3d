def load_prior(*a, **k): raise NotImplementedError
