"""The zoo: a random model of every kind that the libraries build, probed and compared with their own answers."""
