"""What a model's name means, whether it fits this machine, and how it is loaded."""
