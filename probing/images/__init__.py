"""Images: as they are stored, as they are decoded, as a model's processor makes its input of them, and what is kept."""
