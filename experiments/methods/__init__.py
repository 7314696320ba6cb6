"""Methods to steer by, fitted and evaluated on the same prompts."""
