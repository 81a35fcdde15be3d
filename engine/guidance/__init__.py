"""Domain alignment guidance: record moments, measure their distance to the stored ones, step down its gradient."""
