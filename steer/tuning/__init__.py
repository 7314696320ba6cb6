"""Fine-tuning with a stated share of safety examples (arXiv 2309.07875): what ``steer tune`` does."""
