"""From words to what they look for: encoders, the concept bank, calibration, and other models' labels."""
