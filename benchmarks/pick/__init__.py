"""What `hubprobe pick` loses against the best model."""
