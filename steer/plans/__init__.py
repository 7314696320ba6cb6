"""Plans: what is done to a model, as data that can be kept, shared, checked and run."""
