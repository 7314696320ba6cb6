"""SAEs as files: where they are to be had, what they hold, and how they are converted and shared."""
