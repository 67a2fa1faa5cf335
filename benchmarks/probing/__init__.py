"""Speed of probing, against what a person would do today and against bare forward passes."""
