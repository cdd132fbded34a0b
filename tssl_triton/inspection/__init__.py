"""What a trained network does."""
