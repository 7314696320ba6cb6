"""How far training scales, on paper."""
