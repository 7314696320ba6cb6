"""The interactive session: what fires on a prompt, what steering does to a reply; kept as a recipe."""
