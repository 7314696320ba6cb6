"""Training on many processes: who they are, what they exchange, and who reads which part of the stream."""
