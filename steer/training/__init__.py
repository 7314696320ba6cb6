"""From text to trained SAEs, in one call: what ``steer train`` does."""
