"""Interventions on the residual stream: described by data, applied as pure functions."""
