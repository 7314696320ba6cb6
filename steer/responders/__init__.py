"""Whatever answers conversations: a model as it is, steered, prompted, or decoded in another way."""
